# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    module CLI
      # The fleet as a table for people.
      #
      # @api private
      class Table
        # The columns.
        HEADINGS = %w[PROCESS STATE BUSY BEAT SIDEKIQ TAG QUEUES SIGTERM].freeze
        # What a row's colour says, by the process's state.
        TONES = { running: "good", quiet: "changing", stopping: "changing", ghost: "bad" }.freeze

        # @param processes [Array<Process>]
        # @param colour [Boolean]
        def initialize(processes, colour:)
          @processes = processes
          @names = processes.map(&:name).tally
          @colour = colour
        end

        # @return [String]
        def to_s
          rows = @processes.map { |process| [row(process), TONES.fetch(process.state, "plain")] }
          [*Native.format_table(HEADINGS, rows, @colour), "", summary].join("\n")
        end

        private

        def row(process)
          beat = "#{Format.duration(process.beat_age)} ago" if process.beat_age
          cells = [name(process), state(process), busy(process), beat, process.version, process.tag, queues(process),
                   process.signal_path]
          cells.map { |cell| Text.one_line(cell || "-") }
        end

        # A name for `--match`: hostname and pid, or the identity if several processes have the same.
        def name(process) = @names[process.name] == 1 ? process.name : process.full_name

        def state(process) = drained?(process) ? "#{process.state}, drained" : process.state

        def drained?(process) = process.drained? && !process.gone?

        def busy(process)
          [process.busy, *process.concurrency].join("/") unless process.ghost?
        end

        def queues(process)
          shown = process.queues.first(3)
          more = process.queues.size - shown.size
          "#{shown.join(",")}#{"+#{more}" if more.positive?}" if shown.any?
        end

        def summary
          states = @processes.map(&:state).tally.sort.map { |state, number| "#{number} #{state}" }
          drained = @processes.count { |process| drained?(process) }
          states << "#{drained} drained" if drained.positive?
          threads = @processes.sum { |process| process.concurrency.to_i }
          "#{@processes.size} in all: #{states.join(", ")}; #{@processes.sum(&:busy)} of #{threads} threads busy"
        end
      end
    end
  end
end
