# frozen_string_literal: true

require_relative "format"

module SidekiqLifecycle
  class Fleet
    # Tracks a fixed set of processes until they reach a goal, from one poll of Redis to the next. It knows neither
    # Redis nor a clock.
    #
    # A process with this gem publishes whether it has drained. Of another process only Sidekiq's count of busy threads
    # is known. That count may be older than the quiet, or may have been taken while a job was being fetched. Such a
    # process counts as drained one heartbeat *later* than the first one that shows it quiet, if no thread is busy then.
    #
    # @api private
    class GoalTracker
      # Seconds for which a process may be missing without a trace before it counts as gone. Redis may have been
      # restarted or replaced, and the process has not sent a heartbeat since.
      MISSING = Native::MAX_BEAT_AGE
      # Idle heartbeats after which a process with this gem that does not report itself drained will hardly do so soon.
      IDLE_BEATS = 3

      # What has happened to a process that is gone.
      KILLED = "fell silent, as if it had been killed: the jobs it had may be lost"
      FORGOTTEN = "has gone without a trace: it is unknown whether it had drained"
      LEFT = "ended before it was seen to have drained"
      private_constant :KILLED, :FORGOTTEN, :LEFT

      # @return [Symbol] `:quiet`, `:drained` or `:stopped`
      attr_reader :goal
      # @return [Hash{String => String}] why processes have not reached the goal and hardly ever will, by identity
      attr_reader :failed

      # @param goal [Symbol]
      # @param processes [Array<Process>]
      # @param then_stop [Boolean] to be quiet is not enough: they must also know that they stop once they have drained
      def initialize(goal, processes, then_stop: false)
        @goal = goal
        @then_stop = then_stop
        @histories = processes.to_h { |process| [process.identity, History.new] }
        @processes = processes.to_h { |process| [process.identity, process] }
        record(0)
      end

      # Takes in another poll of Redis.
      #
      # @param processes [Hash{String => Process}]
      # @param elapsed [Numeric] seconds since the last one
      def update(processes, elapsed)
        @processes = identities.to_h { |identity| [identity, processes.fetch(identity)] }
        record(elapsed)
      end

      # @return [Array<String>]
      def identities = @histories.keys

      # @return [Array<Process>] all, as they were seen last
      def processes = @processes.values

      # @return [Array<Process>] the processes that have reached the goal
      def reached = processes.select { |process| reached?(process) }

      # @param among [Array<String>] identities
      # @return [Array<Process>] the processes that may still reach it
      def pending(among = identities)
        among.map { |identity| @processes.fetch(identity) }
             .reject { |process| reached?(process) || failed.key?(process.identity) }
      end

      # @return [Hash{String => String}] {#failed} by name
      def failed_by_name = failed.transform_keys { |identity| @processes.fetch(identity).name }

      # @return [Hash{Symbol => Object}] for {Progress}
      def progress(among)
        { goal:, total: processes.size, done: reached.size, pending: pending(among), failed: failed_by_name }
      end

      # @return [String, nil] which jobs processes that are to stop could not finish in time
      def interrupted_in_words
        count = processes.sum(&:interrupted)
        return unless goal == :stopped && count.positive?

        names = processes.flat_map { |process| process.interrupted_jobs.map { |job| "#{job} on #{process.name}" } }
        with_names("#{Format.count(count, "job")} interrupted at the shutdown timeout and pushed back", names)
      end

      # @return [Boolean] whether there is nothing left to wait for
      def over? = pending.empty?

      # @return [Boolean] whether a process is known to have finished every job
      def drained?(process) = history(process).drained

      # @return [Boolean] whether every failed process still runs, and reports that it can never drain
      def stuck? = failed.any? && failed.keys.all? { |identity| @processes.fetch(identity).never_drains }

      # @return [Boolean] whether a few more heartbeats will show if a process has finished every job
      def undecided?(process)
        idle_beats = history(process).idle_beats
        !drained?(process) && !process.gone? && idle_beats.any? && idle_beats.size < IDLE_BEATS
      end

      # What is remembered of a process.
      class History
        # @return [Boolean] whether it has finished every job
        attr_reader :drained
        # @return [Array<Float>] heartbeats at which it was quiet and had no job, since it last had one
        attr_reader :idle_beats
        # @return [Numeric, nil] seconds without a trace of it; nil: it was seen
        attr_reader :missing
        # @return [Boolean] whether it was seen to leave as Sidekiq leaves
        attr_reader :left

        def initialize
          @idle_beats = []
          @drained = @left = @has_gem = false
        end

        # @param process [Process]
        # @param elapsed [Numeric] seconds since the last poll
        def update(process, elapsed)
          @has_gem ||= !process.published.nil?
          @drained = true if process.drained?
          process.gone? ? record_gone(process, elapsed) : record_present(process)
        end

        private

        def record_gone(process, elapsed)
          @left ||= !process.ghost? && !process.beat.nil?
          @missing = process.ghost? || @left ? nil : (@missing || 0) + elapsed
        end

        def record_present(process)
          @missing = nil
          return unless process.quiet?

          @quiet_since ||= process.beat
          return @idle_beats = [] if process.busy.positive?

          @idle_beats |= [process.beat]
          @drained = true if !@has_gem && process.beat > @quiet_since
        end
      end

      private

      def history(process) = @histories.fetch(process.identity)

      def record(elapsed)
        processes.each { |process| history(process).update(process, elapsed) }
        @failed = @processes.transform_values { |process| failure(process) }.compact
      end

      def reached?(process)
        case goal
        when :quiet then process.gone? ? ended?(process) : process.quiet_as_told?(@then_stop)
        when :drained then drained?(process)
        when :stopped then ended?(process)
        end
      end

      # It left, or had nothing more to lose.
      def ended?(process) = history(process).left || (drained?(process) && gone_for_good?(process))

      # A process without a trace may come back.
      def gone_for_good?(process)
        missing = history(process).missing
        process.gone? && (missing.nil? || missing > MISSING)
      end

      def failure(process)
        return if drained?(process)

        published_failure(process) || (failure_of_gone(process) if gone_for_good?(process))
      end

      def published_failure(process)
        case goal
        when :drained then "can never drain: #{process.never_drains}" if process.never_drains
        when :stopped then with_names("has ended and lost #{count_lost(process)}", process.lost_jobs) if lost?(process)
        end
      end

      def failure_of_gone(process)
        return KILLED if process.ghost?
        return FORGOTTEN unless history(process).left

        left_undrained(process) if goal == :drained
      end

      def lost?(process) = process.gone? && process.lost.positive?

      def left_undrained(process)
        return "#{LEFT} (#{with_names("#{count_lost(process)} lost", process.lost_jobs)})" if process.lost.positive?
        return LEFT unless process.interrupted.positive?

        "#{LEFT} (#{interrupted_jobs(process)})"
      end

      def count_lost(process) = Format.count(process.lost, "job")

      def interrupted_jobs(process)
        with_names("#{process.interrupted} interrupted at its timeout and pushed back", process.interrupted_jobs)
      end

      def with_names(text, jobs) = jobs.empty? ? text : "#{text}: #{Format.list(jobs)}"
    end
  end
end
