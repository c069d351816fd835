# frozen_string_literal: true

require "json"
require "net/http"
require "uri"

module SidekiqLifecycle
  class Fleet
    # Tells webhooks when an operation begins and how it ends. On a thread of its own, and never for long: a webhook
    # that fails or hangs is a line on standard error, and no more.
    #
    # @api private
    class Notifier
      # Seconds for one message, and for what is left of all when the command ends.
      LIMIT = 5
      # Slack's own signs.
      ESCAPES = { "&" => "&amp;", "<" => "&lt;", ">" => "&gt;" }.freeze

      # @param slack [String, nil] the address of a Slack-compatible webhook: it gets `{"text": …}`
      # @param plain [String, nil] the address of one that gets everything as JSON
      # @yieldparam line [String] what went wrong
      def initialize(slack: nil, plain: nil, &complain)
        @slack = slack
        @plain = plain
        @complain = complain
        @messages = Queue.new
        @thread = Thread.new { work } if slack || plain
      end

      # @param text [String] for people
      # @param facts [Hash] for machines
      def tell(text, facts)
        return unless @thread

        @messages << ["Slack webhook", @slack, { text: text.gsub(/[&<>]/, ESCAPES) }] if @slack
        @messages << ["webhook", @plain, { text:, **facts }] if @plain
      end

      # Waits until all is told, but not for ever.
      def finish
        return unless @thread

        @messages.close
        return if @thread.join(LIMIT)

        @complain.call("the webhook has not answered for #{LIMIT} s; it may not know how this ended")
      end

      private

      def work
        while (message = @messages.pop)
          post(*message)
        end
      end

      def post(name, address, body)
        uri = URI(address)
        options = { use_ssl: uri.scheme == "https", open_timeout: LIMIT, read_timeout: LIMIT, write_timeout: LIMIT }
        response = Net::HTTP.start(uri.hostname, uri.port, **options) do |http|
          http.post(uri.request_uri, JSON.generate(body), "Content-Type" => "application/json")
        end
        @complain.call("the #{name} answered #{response.code}") unless response.is_a?(Net::HTTPSuccess)
      rescue StandardError => e
        # Without the address, which is a secret.
        @complain.call("the #{name} was not told: #{e.class}")
      end
    end
  end
end
