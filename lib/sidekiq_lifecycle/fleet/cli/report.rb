# frozen_string_literal: true

require "etc"
require "json"
require "socket"
require_relative "../format"
require_relative "../selection"

module SidekiqLifecycle
  class Fleet
    module CLI
      # How an operation begins and ends: for the terminal, for webhooks and as JSON.
      #
      # @api private
      class Report
        # What is asked for.
        REQUESTS = { "quiet" => "be quiet", "stop" => "stop", "wake" => "wake up" }.freeze
        # What remains in effect, by {Progress#told}.
        EFFECTS = { "quiet" => "told to go quiet, and will stay quiet", "stop" => "told to stop, and will stop" }.freeze

        # @return [Progress, nil] the last progress; nil: there was none
        attr_accessor :progress
        # @return [Selection]
        attr_reader :selection

        # @param options [Hash{String => Object}] the command's
        def initialize(options)
          @options = options
          @action = options.fetch("action")
          matching = options["matching"]
          @selection = Selection.new(matching: (matching unless matching.empty?), except: options["except"])
        end

        # @return [Hash{Symbol => Object}] for `--json`
        def facts(outcome, reason)
          { action: @action, goal: @options["goal"], by:, match: @options["matching"], except: @options["except"],
            outcome:, reason:, progress: progress&.to_h }
        end

        # @return [Hash{Symbol => Object}] the same without the pending processes: thousands of them are megabytes, more
        #   than webhooks accept
        def brief_facts(outcome, reason)
          { **facts(outcome, reason), progress: progress&.to_h&.except(:pending) }
        end

        # @return [String] for a webhook
        def beginning
          number = Format.count(progress.total, "Sidekiq process", "Sidekiq processes")
          request = "asks #{number} to #{REQUESTS[@action]}"
          request = "waits for #{number}: #{@options["goal"]}" if @action == "wait"
          limit = ", for #{Format.duration(@options["timeout"])} at most" if @options["timeout"]
          "#{by} #{request}#{criteria}#{limit}"
        end

        # @return [String] for a webhook
        def ending(outcome, reason)
          return "#{progress}#{took}#{criteria} (asked by #{by})" if outcome == "reached"

          ["#{@action} failed#{took}#{criteria} (asked by #{by}): #{reason}", *effects].join("\n")
        end

        # @return [Array<String>] for the terminal
        def lines(outcome, reason)
          return [Format.lines("#{progress}#{took}")] if outcome == "reached"

          ["not reached: #{reason}", *effects].map { |line| Format.lines(line) }
        end

        private

        def took = progress ? " after #{Format.duration(progress.elapsed)}" : ""

        def criteria = selection.all? ? "" : " (#{selection})"

        def effects
          (progress&.told || {}).map do |request, number|
            "#{Format.count(number, "process was", "processes were")} #{EFFECTS.fetch(request)}."
          end
        end

        def by = @by ||= @options["by"] || "#{ENV.fetch("SUDO_USER", nil) || user}@#{Socket.gethostname}"

        # In a container the user may have no name.
        def user
          Etc.getpwuid.name
        rescue ArgumentError
          "uid #{::Process.uid}"
        end
      end
    end
  end
end
