# frozen_string_literal: true

require "json"
require "net/http"
require "uri"

module SidekiqLifecycle
  class Fleet
    module CLI
      # Calls webhooks when an operation starts and when it ends. Each webhook has its own thread and a time limit. A
      # webhook that fails or hangs only costs a line on standard error.
      #
      # @api private
      class Notifier
        # Seconds for one message, and for all that are left when the command ends.
        LIMIT = 5
        # Their names for people; their addresses are secret.
        NAMES = { slack: "Slack webhook", plain: "webhook" }.freeze
        # Characters that Slack interprets.
        ESCAPES = { "&" => "&amp;", "<" => "&lt;", ">" => "&gt;" }.freeze

        # @param slack [String, nil] the address of a Slack-compatible webhook, which receives `{"text": …}`
        # @param plain [String, nil] the address of a webhook that receives everything as JSON
        # @yieldparam line [String] what failed
        def initialize(slack: nil, plain: nil, &report)
          @report = report
          @addresses = { slack:, plain: }.compact
          @messages = @addresses.transform_values { Queue.new }
          @threads = @addresses.to_h { |kind, _| [kind, Thread.new { work(kind) }] }
        end

        # @param text [String] for people
        # @param facts [Hash] for machines
        def post(text, facts)
          text = Format.lines(text)
          @messages[:slack]&.push({ text: text.gsub(/[&<>]/, ESCAPES) })
          @messages[:plain]&.push({ text:, **facts })
        end

        # Waits until every message is sent, up to the limit.
        def finish
          @messages.each_value(&:close)
          ends = now + LIMIT
          @threads.each do |kind, thread|
            next if thread.join([ends - now, 0].max)

            @report.call("the #{NAMES.fetch(kind)} has not answered for #{LIMIT} s; it may lack the last message")
          end
        end

        private

        def work(kind)
          while (message = @messages.fetch(kind).pop)
            deliver(NAMES.fetch(kind), @addresses.fetch(kind), message)
          end
        end

        def now = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC)

        def deliver(name, address, body)
          uri = URI(address)
          options = { use_ssl: uri.scheme == "https", open_timeout: LIMIT, read_timeout: LIMIT, write_timeout: LIMIT }
          response = Net::HTTP.start(uri.hostname, uri.port, **options) do |http|
            http.post(uri.request_uri, JSON.generate(body), "Content-Type" => "application/json")
          end
          @report.call("the #{name} answered #{response.code}") unless response.is_a?(Net::HTTPSuccess)
        rescue StandardError => e
          # The error's message may contain the address.
          @report.call("the #{name} could not be called: #{e.class}")
        end
      end
    end
  end
end
