# frozen_string_literal: true

require "json"
require "net/http"
require "uri"

module SidekiqLifecycle
  class Fleet
    # Tells webhooks when an operation begins and how it ends. Each on a thread of its own, and never for long: a
    # webhook that fails or hangs is a line on standard error, and no more.
    #
    # @api private
    class Notifier
      # Seconds for one message, and for what is left of all when the command ends.
      LIMIT = 5
      # What they are called; their addresses are secret.
      NAMES = { slack: "Slack webhook", plain: "webhook" }.freeze
      # Slack's own signs.
      ESCAPES = { "&" => "&amp;", "<" => "&lt;", ">" => "&gt;" }.freeze

      # @param slack [String, nil] the address of a Slack-compatible webhook: it gets `{"text": …}`
      # @param plain [String, nil] the address of one that gets everything as JSON
      # @yieldparam line [String] what went wrong
      def initialize(slack: nil, plain: nil, &complain)
        @complain = complain
        @addresses = { slack:, plain: }.compact
        @messages = @addresses.transform_values { Queue.new }
        @threads = @addresses.to_h { |kind, _| [kind, Thread.new { work(kind) }] }
      end

      # @param text [String] for people
      # @param facts [Hash] for machines
      def tell(text, facts)
        text = Words.lines(text)
        @messages[:slack]&.push({ text: text.gsub(/[&<>]/, ESCAPES) })
        @messages[:plain]&.push({ text:, **facts })
      end

      # Waits until all is told, but not for ever.
      def finish
        @messages.each_value(&:close)
        ends = now + LIMIT
        @threads.each do |kind, thread|
          next if thread.join([ends - now, 0].max)

          @complain.call("the #{NAMES.fetch(kind)} has not answered for #{LIMIT} s; it may not know how this ended")
        end
      end

      private

      def work(kind)
        while (message = @messages.fetch(kind).pop)
          post(NAMES.fetch(kind), @addresses.fetch(kind), message)
        end
      end

      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

      def post(name, address, body)
        uri = URI(address)
        options = { use_ssl: uri.scheme == "https", open_timeout: LIMIT, read_timeout: LIMIT, write_timeout: LIMIT }
        response = Net::HTTP.start(uri.hostname, uri.port, **options) do |http|
          http.post(uri.request_uri, JSON.generate(body), "Content-Type" => "application/json")
        end
        @complain.call("the #{name} answered #{response.code}") unless response.is_a?(Net::HTTPSuccess)
      rescue StandardError => e
        # The message may have the address in it.
        @complain.call("the #{name} was not told: #{e.class}")
      end
    end
  end
end
