# frozen_string_literal: true

require_relative "progress"
require_relative "pursuit"
require_relative "targets"
require_relative "words"

module SidekiqLifecycle
  class Fleet
    # One thing done to a part of the fleet, from the first look at Redis to the last.
    #
    # Redis tells nobody of a change, so it is asked again and again: each second, or more rarely where one look takes
    # long. When it fails, it is given time to come back.
    #
    # @api private
    class Operation
      # What can be waited for.
      GOALS = %i[ready quiet drained stopped].freeze
      # Seconds between two looks.
      PAUSE = 1.0
      # Seconds for which Redis may be away.
      PATIENCE = 30
      # Seconds after which a process that shows no effect is told again: Redis forgets what nobody has fetched for
      # 60 s, and what is fetched by a process whose connection breaks at that moment is lost.
      REPEAT = 30
      # Processes of which the jobs are read, to name those that take longest.
      JOBS_OF = 100
      # The signals, and what has become of those that got one.
      WORDS = { "TSTP" => "told to be quiet", "TERM" => "told to stop" }.freeze

      def initialize(registry, selection, timeout, &listener)
        @registry = registry
        @selection = selection
        @timeout = timeout
        @listener = listener
        @begun = now
        @told = Hash.new { |told, signal| told[signal] = {} }
        @targets = Targets.new(first_look, selection)
      end

      # For {Fleet#quiet}.
      def quiet(wait:)
        targets = @targets.steerable
        tell(targets, "TSTP")
        pursue(Pursuit.new(wait ? :drained : :quiet, targets), repeat: "TSTP")
      end

      # For {Fleet#wait}.
      def wait(goal)
        return wait_until_ready if goal == :ready

        pursue(Pursuit.new(goal, @targets.present))
      end

      # For {Fleet#stop}.
      def stop(drain_first:, batch:)
        targets = @targets.steerable
        slices = targets.each_slice(batch_size(batch, targets.size)).to_a
        gone = stopped = 0
        slices.each.with_index(1) do |slice, number|
          @batch = "batch #{number} of #{slices.size}" if slices.size > 1
          left = number == 1 ? slice : still_there(slice)
          gone += slice.size - left.size
          drain(left) if drain_first
          end_all(left, of: targets.size, before: gone)
          gone += left.size
          stopped += left.size
          replaced(stopped) if batch
        end
        @last
      end

      # For {Fleet#wake}.
      def wake(even_busy:)
        quiet = @targets.quiet
        busy = even_busy ? [] : still_busy(quiet)
        left = busy.map(&:identity)
        progress = renew(quiet.reject { |member| left.include?(member.identity) })
        busy.empty? ? progress : raise(NotReached.new(left_alone(busy, quiet.size), progress))
      end

      private

      def first_look
        @registry.members
      rescue *Fleet.redis_errors => e
        raise Unreachable, "Redis does not answer: #{e.message}"
      end

      # ---- what ----

      def tell(targets, signal)
        patiently do
          untold = targets.reject { |member| @told[signal].key?(member.identity) }
          @registry.tell(untold, signal) { |slice| slice.each { |member| @told[signal][member.identity] = now } }
        end
      end

      def drain(slice)
        tell(slice, "TSTP")
        pursue(Pursuit.new(:drained, slice), repeat: "TSTP")
      end

      def end_all(slice, of:, before:)
        tell(slice, "TERM")
        pursue(Pursuit.new(:stopped, slice), repeat: "TERM", of:, before:)
      end

      def renew(members)
        return if members.empty?

        end_all(members, of: members.size, before: 0)
        replaced(members.size)
      end

      # While the batches before it were replaced, some of a batch may have gone by themselves. Redis forgets such a
      # process after a minute, and then nobody could tell it from one that is missing.
      def still_there(members)
        now = look(members.map(&:identity))
        members.map { |member| now.fetch(member.identity) }.reject(&:gone?)
      end

      # As many new ones as have gone.
      def replaced(number)
        loop do
          unknown = look.values.reject { |member| @targets.known.key?(member.identity) }
          new = unknown.count { |member| member.ready? && @selection.include?(member) }
          progress = progress(goal: :ready, total: number, done: [new, number].min, remark: "waiting for new processes")
          return progress if new >= number

          pause(progress)
        end
      end

      # Whoever is there by then; who goes is waited for no longer.
      def wait_until_ready
        known = @targets.present
        loop do
          ready, others = known.partition(&:ready?)
          progress = progress(goal: :ready, total: known.size, done: ready.size, pending: others)
          return progress if others.empty? && known.any?

          pause(progress)
          known = look.values.select { |member| @selection.include?(member) && !member.gone? }
        end
      end

      # Those that have not drained, which one look does not tell of processes without this gem.
      def still_busy(members)
        pursuit = Pursuit.new(:drained, members)
        while pursuit.members.any? { |member| pursuit.undecided?(member) }
          pause(pursued(pursuit))
          see(pursuit)
        end
        pursuit.members.reject { |member| member.gone? || pursuit.drained?(member) }
      end

      # ---- on the way ----

      def pursue(pursuit, repeat: nil, of: pursuit.members.size, before: 0)
        until pursuit.over?
          pause(pursued(pursuit, of:, before:))
          see(pursuit)
          tell_again(pursuit, repeat) if repeat
        end
        last = pursued(pursuit, of:, before:)
        raise NotReached.new(never(pursuit), last) unless pursuit.failed.empty?

        last
      end

      def see(pursuit)
        members = look(pursuit.identities)
        pursuit.see(members, @since_last_look)
      end

      # Told once more, whoever shows no effect although his heart beats.
      def tell_again(pursuit, signal)
        deaf = pursuit.pending.select do |member|
          told = @told[signal][member.identity]
          told && now - told > REPEAT && (signal == "TSTP" ? !member.quiet? : member.state != :stopping)
        end
        deaf.each { |member| @told[signal].delete(member.identity) }
        tell(deaf, signal) unless deaf.empty?
      end

      def pursued(pursuit, of: pursuit.members.size, before: 0)
        names = pursuit.members.to_h { |member| [member.identity, member.name] }
        progress(goal: pursuit.goal, total: of, done: before + pursuit.reached.size, pending: pursuit.pending,
                 failed: pursuit.failed.transform_keys { |identity| names.fetch(identity) })
      end

      def progress(goal:, total:, done:, pending: [], failed: {}, remark: nil)
        remark = [@batch, remark, @targets.left_out].compact.join("; ")
        @last = Progress.new(goal:, total:, done:, pending:, failed:, jobs: jobs(goal, pending), elapsed: now - @begun,
                             timeout: @timeout, remark: (remark unless remark.empty?), told: told)
                        .tap { |progress| @listener&.call(progress) }
      end

      def jobs(goal, pending)
        busy = pending.select { |member| member.busy.positive? }
        return [] if busy.empty? || !%i[drained stopped].include?(goal)

        @registry.jobs(busy.first(JOBS_OF))
      rescue *Fleet.redis_errors
        [] # the next look will tell
      end

      def look(identities = [])
        patiently do
          began = now
          members = @registry.members(identities)
          @look_takes = now - began
          @since_last_look = began - (@looked_at || @begun)
          @looked_at = began
          members
        end
      end

      # Redis may be away for a while; what it was told before is not told twice.
      def patiently
        yield.tap { @away_since = nil }
      rescue *Fleet.redis_errors => e
        wait_for_redis(e)
        retry
      end

      def wait_for_redis(error)
        @away_since ||= now
        if now - @away_since > PATIENCE
          seen = @last ? "when it was seen last: #{@last}" : "nobody was told anything"
          raise Unreachable.new("Redis has not answered for #{PATIENCE} s: #{error.message}; #{seen}", @last)
        end

        trouble = @last&.later(elapsed: now - @begun, remark: "Redis does not answer (#{error.message}), trying again")
        @listener&.call(trouble) if trouble
        pause(trouble)
      end

      # To the next look, or to the end of the time.
      def pause(progress)
        left = @timeout ? @timeout - (now - @begun) : Float::INFINITY
        if left <= 0
          came = progress || "nobody was told anything"
          raise TimedOut.new("timed out after #{Words.span(@timeout)}: #{came}", progress)
        end

        sleep([left, [PAUSE, 4 * @look_takes.to_f].max].min) # rubocop:disable Style/ComparableClamp
      end

      # ---- in words ----

      def told = @told.to_h { |signal, members| [WORDS.fetch(signal), members.size] }

      def never(pursuit)
        names = pursuit.members.to_h { |member| [member.identity, member.name] }
        reasons = pursuit.failed.map { |identity, reason| "#{names.fetch(identity)} #{reason}" }
        "#{pursuit.failed.size} of #{pursuit.members.size} not #{pursuit.goal}: #{Words.list(reasons)}"
      end

      def left_alone(busy, all)
        names = busy.map { |member| "#{member.name} (#{Words.count(member.busy, "job")})" }
        "#{all - busy.size} of #{all} woken; still busy and left alone: #{Words.list(names)}"
      end

      def batch_size(batch, total)
        case batch
        when nil then total
        when Float then (batch * total).round(6).ceil # 0.07 * 100 is a little more than 7
        else batch
        end
      end

      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
