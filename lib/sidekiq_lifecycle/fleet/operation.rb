# frozen_string_literal: true

require_relative "batches"
require_relative "format"
require_relative "goal_tracker"
require_relative "progress"
require_relative "replacements"
require_relative "targets"

module SidekiqLifecycle
  class Fleet
    # One command for a part of the fleet, from the first poll of Redis to the last.
    #
    # Redis sends no notice of a change, so it is polled: every second, or less often if a poll takes long. If Redis
    # fails, it gets time to come back.
    #
    # @api private
    class Operation
      # What can be waited for.
      GOALS = %i[ready quiet drained stopped].freeze
      # Seconds between two polls.
      PAUSE = 1.0
      # Seconds for which Redis may be away.
      PATIENCE = 30
      # Seconds after which a signal without effect is sent again. Redis forgets a signal that no process has fetched
      # for 60 s, and a signal is lost if the process's connection breaks while it is fetched.
      REPEAT = 30
      # Number of processes whose jobs are read, to name those that take longest.
      JOBS_OF = 100
      # The signals, by the names that {Progress#told} has for them.
      SIGNALS = { "quiet" => "TSTP", "stop" => "TERM" }.freeze

      def initialize(registry, selection, timeout, &listener)
        @registry = registry
        @selection = selection
        @timeout = timeout
        @listener = listener
        @started = now
        @signalled = SIGNALS.transform_values { {} }
        @targets = Targets.new(registry.first_poll, selection)
        @replacements = Replacements.new(@targets.known, selection)
        @trackers = []
        @undrained = []
      end

      # For {Fleet#quiet}.
      def quiet(wait:, then_stop:)
        @then_stop = then_stop
        targets = then_stop ? @targets.able_to_stop_when_drained : @targets.controllable
        waits_for = then_stop ? :stopped : :drained
        pursue(track(wait ? waits_for : :quiet, targets), signal: "quiet")
      end

      # For {Fleet#wait}.
      def wait(goal)
        goal == :ready ? wait_until_ready : pursue(track(goal, @targets.present))
      end

      # For {Fleet#stop}.
      def stop(drain_first:, batch:)
        stopping = track(:stopped, @targets.controllable)
        batches = Batches.of(stopping.identities, batch)
        batches.each.with_index(1) do |identities, number|
          @batch = "batch #{number} of #{batches.size}" if batches.size > 1
          drain(stopping.pending(identities)) if drain_first
          pursue(stopping, stopping.pending(identities), signal: "stop")
          wait_for_replacements(stopping.reached.size) if batch
        end
        require_reached(stopping)
        @undrained.empty? ? @last : raise(NotReached.new([*@undrained, @last].join("; "), @last))
      end

      # For {Fleet#wake}.
      def wake(even_busy:)
        quiet = @targets.quiet
        busy = even_busy ? [] : still_busy(quiet)
        @left_alone = describe_left_alone(busy) unless busy.empty?
        left = busy.map(&:identity)
        progress = restart(quiet.reject { |process| left.include?(process.identity) })
        return progress if busy.empty?

        raise NotReached.new("#{quiet.size - busy.size} of #{quiet.size} woken; #{@left_alone}", progress)
      end

      private

      # ---- the commands' steps ----

      # A tracker takes in every poll from now on, even before its processes are signalled.
      def track(goal, processes)
        GoalTracker.new(goal, processes, then_stop: @then_stop).tap { |tracker| @trackers << tracker }
      end

      # A process that can never drain is stopped all the same, because only that pushes its jobs back.
      def drain(processes)
        return if processes.empty?

        draining = track(:drained, processes)
        pursue(draining, signal: "quiet")
      rescue NotReached => e
        raise unless draining.stuck?

        @undrained << e.message
      end

      def restart(processes)
        return if processes.empty?

        stopping = track(:stopped, processes)
        pursue(stopping, signal: "stop")
        wait_for_replacements(stopping.reached.size)
      end

      # Waits for as many new processes as were told to stop. A supervisor may or may not replace those that stopped by
      # themselves.
      def wait_for_replacements(stopped)
        needed = @signalled["stop"].size
        exited_early = stopped - needed
        remark = "#{exited_early} exited before its turn" if exited_early.positive?
        loop do
          new = [@replacements.ready, needed].min
          waiting = "waiting for replacements" if new < needed
          report_progress(goal: :ready, total: stopped, done: new + exited_early, remarks: [waiting, remark])
          return @last unless waiting

          pause
          poll
        end
      end

      # Waits for the processes that are there at the time, and not for those that go. If all go, it waits for new ones.
      def wait_until_ready
        processes = @targets.present
        loop do
          ready, others = processes.partition(&:ready?)
          none = "no process is there, waiting for new ones" if processes.empty?
          report_progress(goal: :ready, total: processes.size, done: ready.size, pending: others, remarks: [none])
          return @last if others.empty? && processes.any?

          pause
          processes = poll.values.select { |process| @selection.include?(process) && !process.gone? }
        end
      end

      # The processes that have not drained. Without this gem, a single poll does not show that.
      def still_busy(processes)
        tracker = track(:drained, processes)
        while tracker.processes.any? { |process| tracker.undecided?(process) }
          report(tracker)
          pause
          poll
        end
        tracker.processes.reject { |process| process.gone? || tracker.drained?(process) }
      end

      # Signals processes, and waits until none of them is pending any more.
      def pursue(tracker, processes = tracker.processes, signal: nil)
        identities = processes.map(&:identity)
        report(tracker, identities)
        send_signal(processes, signal) if signal
        until tracker.pending(identities).empty?
          pause
          poll
          repeat_signal(tracker.pending(identities), signal) if signal
          report(tracker, identities)
        end
        require_reached(tracker, identities)
      end

      def require_reached(tracker, identities = tracker.identities)
        return @last unless tracker.failed.keys.intersect?(identities)

        raise NotReached.new(describe_failed(tracker), @last)
      end

      # ---- signals ----

      # Reports after each pipeline, so that the number of signalled processes is known whatever ends the operation.
      def send_signal(processes, name)
        with_patience do
          remaining = processes.reject { |process| @signalled[name].key?(process.identity) }
          @registry.signal(remaining, SIGNALS.fetch(name), then_stop: @then_stop) do |slice|
            slice.each { |process| @signalled[name][process.identity] = now }
            notify(@last.later(elapsed: now - @started, told:))
          end
        end
      end

      # Sends the signal again to processes that do not react, although they send heartbeats.
      def repeat_signal(processes, name)
        unmoved = processes.select do |process|
          sent = @signalled[name][process.identity]
          has_reacted = name == "quiet" ? process.quiet_as_told?(@then_stop) : process.state == :stopping
          sent && now - sent > REPEAT && !has_reacted
        end
        unmoved.each { |process| @signalled[name].delete(process.identity) }
        send_signal(unmoved, name) unless unmoved.empty?
      end

      def told = @signalled.transform_values(&:size).select { |_, number| number.positive? }

      # ---- polls ----

      def poll
        with_patience do
          began = now
          processes = @registry.processes(@trackers.flat_map(&:identities))
          @poll_takes = now - began
          @trackers.each { |tracker| tracker.update(processes, began - (@polled_at || @started)) }
          @replacements.update(processes, now - @started)
          @polled_at = began
          processes
        end
      end

      # Retries while Redis is away.
      def with_patience
        yield.tap { @away_since = nil }
      rescue *SidekiqCompat.redis_errors => e
        wait_for_redis(e)
        retry
      end

      # Called only once there is progress to report.
      def wait_for_redis(error)
        @away_since ||= now
        why = Text.masked(error.message)
        if now - @away_since > PATIENCE
          sentence = "Redis has not answered for #{PATIENCE} s: #{why}; when it was seen last: #{@last}"
          raise Unreachable.new(sentence, @last)
        end

        remark = "Redis does not answer (#{why}), trying again"
        outage = @last.later(elapsed: now - @started, remark:)
        @listener&.call(outage)
        pause(outage)
      end

      # Sleeps until the next poll, or until the timeout.
      def pause(progress = @last)
        left = @timeout ? @timeout - (now - @started) : Float::INFINITY
        raise TimedOut.new("timed out after #{Format.duration(@timeout)}: #{progress.to_long_s}", progress) if left <= 0

        sleep([left, [PAUSE, 4 * @poll_takes.to_f].max].min) # rubocop:disable Style/ComparableClamp
      end

      # ---- reports ----

      def report(tracker, identities = tracker.identities)
        report_progress(**tracker.progress(identities), remarks: [tracker.interrupted_in_words])
      end

      def report_progress(goal:, total:, done:, pending: [], failed: {}, remarks: [])
        remark = [@batch, *remarks, *companions(goal, pending), @left_alone, @targets.left_out].compact.join("; ")
        notify(Progress.new(goal:, total:, done:, pending:, failed:, jobs: jobs(goal, pending), elapsed: now - @started,
                            timeout: @timeout, remark: (remark unless remark.empty?), told:))
      end

      # What else ends with the processes. The first report comes before any signal is sent.
      def companions(goal, pending) = goal == :stopped ? pending.filter_map(&:company_in_words) : []

      def notify(progress)
        @last = progress
        @listener&.call(progress)
      end

      def jobs(goal, pending)
        busy = pending.select { |process| process.busy.positive? }
        return [] if busy.empty? || !%i[drained stopped].include?(goal)

        @registry.jobs(busy.first(JOBS_OF))
      rescue *SidekiqCompat.redis_errors
        [] # the next poll will show whether Redis is away
      end

      def describe_failed(tracker)
        reasons = tracker.failed_by_name.map { |name, reason| "#{name} #{reason}" }
        "#{reasons.size} of #{tracker.processes.size} not #{tracker.goal}: #{Format.list(reasons)}"
      end

      def describe_left_alone(busy)
        names = busy.map { |process| "#{process.name} (#{Format.count(process.busy, "job")})" }
        "still busy and left alone: #{Format.list(names)}"
      end

      def now = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC)
    end
  end
end
