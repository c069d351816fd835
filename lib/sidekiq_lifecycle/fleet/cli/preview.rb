# frozen_string_literal: true

require_relative "../format"
require_relative "../targets"

module SidekiqLifecycle
  class Fleet
    module CLI
      # What a command would do (`--dry-run`).
      #
      # @api private
      class Preview
        # What would happen to a process, for people.
        SENTENCES = { "quiet" => "would be told to be quiet", "stop" => "would be told to stop",
                      "skip-busy" => "would be left alone while it is busy",
                      "skip-ghost" => "is a ghost, and would be left out",
                      "skip-embedded" => "is embedded, and would be left out" }.freeze

        # @param action [String]
        # @param options [Hash{String => Object}] the command's
        # @param processes [Array<Process>] all of the fleet
        # @param selection [Selection]
        # @raise [NoMatch] if the command would find no process to signal
        def initialize(action, options, processes, selection)
          @action = action
          @options = options
          targets = Targets.new(processes.to_h { |process| [process.identity, process] }, selection)
          choose(targets)
          @processes = action == "wake" ? targets.matching.select(&:quiet?) : targets.matching
        end

        # @return [Array<Hash{Symbol => Object}>]
        def to_a = @processes.map { |process| { **process.to_h, would: would(process) } }

        # @return [Array<String>]
        def lines
          width = @processes.map { |process| process.name.size }.max
          @processes.map { |process| "#{process.name.ljust(width)}  #{sentence(process)}" }
        end

        private

        def choose(targets)
          return targets.quiet if @action == "wake"

          @options["then_stop"] ? targets.able_to_stop_when_drained : targets.controllable
        end

        def would(process)
          return "skip-ghost" if process.ghost?
          return "skip-embedded" if process.embedded?
          return "quiet" if @action == "quiet"

          @action == "wake" && process.busy.positive? && !@options["even_busy"] ? "skip-busy" : "stop"
        end

        def sentence(process)
          would = would(process)
          now = " (#{process.state}, #{Format.count(process.busy, "job")})"
          then_stop = ", and to stop once drained" if would == "quiet" && @options["then_stop"]
          "#{SENTENCES.fetch(would)}#{then_stop}#{now unless %w[skip-ghost skip-embedded].include?(would)}"
        end
      end
    end
  end
end
