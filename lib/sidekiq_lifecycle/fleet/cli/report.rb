# frozen_string_literal: true

require "json"
require_relative "../format"
require_relative "../selection"
require_relative "operator"

module SidekiqLifecycle
  class Fleet
    module CLI
      # How an operation begins and ends: for the terminal, for webhooks and as JSON.
      #
      # @api private
      class Report
        # What is asked for.
        REQUESTS = { "quiet" => "be quiet", "stop" => "stop",
                     "wake" => "stop, so that their supervisors restart them" }.freeze
        # What remains in effect, by {Progress#told}.
        EFFECTS = { "then_stop" => "told to go quiet, and will stop once drained",
                    "quiet" => "told to go quiet, and will stay quiet", "stop" => "told to stop, and will stop" }.freeze

        # @return [Progress, nil] the last progress; nil: there was none
        attr_accessor :progress
        # @return [Timeline, nil] what the processes were doing during a rolling restart
        attr_accessor :timeline
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
            outcome:, reason:, progress: progress&.to_h, timeline: timeline&.brief }
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
          request += " and stop once drained" if @options["then_stop"]
          request = "waits for #{number}: #{@options["goal"]}" if @action == "wait"
          limit = ", for #{Format.duration(@options["timeout"])} at most" if @options["timeout"]
          "#{by} #{request}#{criteria}#{limit}"
        end

        # @return [String] for a webhook
        def ending(outcome, reason)
          return ["#{progress.to_final_s}#{criteria} (asked by #{by})", *summary].join("\n") if outcome == "reached"

          ["#{@action} failed#{took}#{criteria} (asked by #{by}): #{reason}", *effects, *summary].join("\n")
        end

        # @return [String] how far it has come
        def standing = progress ? progress.to_long_s : "no signal was sent"

        # @return [Array<String>] for the terminal
        def lines(outcome, reason)
          ending = outcome == "reached" ? [progress.to_final_s] : ["not reached: #{reason}", *effects]
          [*ending, *summary].map { |line| Format.lines(line) }
        end

        private

        def took = progress ? " after #{Format.duration(progress.elapsed)}" : ""

        def summary = timeline ? timeline.summary : []

        def criteria = selection.all? ? "" : " (#{selection})"

        def effects
          (progress&.told || {}).map do |request, number|
            effect = EFFECTS.fetch(@options["then_stop"] ? "then_stop" : request)
            "#{Format.count(number, "process was", "processes were")} #{effect}."
          end
        end

        def by = @by ||= Operator.name(@options)
      end
    end
  end
end
