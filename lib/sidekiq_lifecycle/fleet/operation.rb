# frozen_string_literal: true

require_relative "progress"
require_relative "pursuit"
require_relative "replacements"
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
        @targets = Targets.new(registry.first_look, selection)
        @replacements = Replacements.new(@targets.known, selection)
        @pursuits = []
        @undrained = []
      end

      # For {Fleet#quiet}.
      def quiet(wait:)
        pursue(pursuit(wait ? :drained : :quiet, @targets.steerable), signal: "TSTP")
      end

      # For {Fleet#wait}.
      def wait(goal)
        goal == :ready ? wait_until_ready : pursue(pursuit(goal, @targets.present))
      end

      # For {Fleet#stop}.
      def stop(drain_first:, batch:)
        ending = pursuit(:stopped, @targets.steerable)
        batches = ending.identities.each_slice(batch_size(batch, ending.members.size)).to_a
        batches.each.with_index(1) do |identities, number|
          @batch = "batch #{number} of #{batches.size}" if batches.size > 1
          drain(ending.pending(identities)) if drain_first
          pursue(ending, ending.pending(identities), signal: "TERM")
          replaced(ending.reached.size) if batch
        end
        reached(ending)
        @undrained.empty? ? @last : raise(NotReached.new([*@undrained, @last].join("; "), @last))
      end

      # For {Fleet#wake}.
      def wake(even_busy:)
        quiet = @targets.quiet
        busy = even_busy ? [] : still_busy(quiet)
        @left_alone = left_alone(busy) unless busy.empty?
        left = busy.map(&:identity)
        progress = renew(quiet.reject { |member| left.include?(member.identity) })
        return progress if busy.empty?

        raise NotReached.new("#{quiet.size - busy.size} of #{quiet.size} woken; #{@left_alone}", progress)
      end

      private

      # ---- what ----

      # A pursuit takes in every look from now on, also before the turn of its members comes.
      def pursuit(goal, members) = Pursuit.new(goal, members).tap { |pursuit| @pursuits << pursuit }

      # Who can never drain is stopped all the same, for that is what pushes its jobs back.
      def drain(members)
        return if members.empty?

        draining = pursuit(:drained, members)
        pursue(draining, signal: "TSTP")
      rescue NotReached => e
        raise unless draining.stuck?

        @undrained << e.message
      end

      def renew(members)
        return if members.empty?

        ending = pursuit(:stopped, members)
        pursue(ending, signal: "TERM")
        replaced(ending.reached.size)
      end

      # Waits for as many new ones as were told to stop. Whether anybody replaces those that went by themselves nobody
      # knows.
      def replaced(gone)
        needed = @told["TERM"].size
        alone = gone - needed
        went = "#{Words.count(alone, "has", "have")} gone unasked" if alone.positive?
        loop do
          new = [@replacements.ready, needed].min
          waiting = "waiting for new processes" if new < needed
          progress(goal: :ready, total: gone, done: new + alone, remarks: [waiting, went])
          return @last unless waiting

          pause
          look
        end
      end

      # Whoever is there by then; who goes is waited for no longer. Where all have gone it waits for others to come.
      def wait_until_ready
        known = @targets.present
        loop do
          ready, others = known.partition(&:ready?)
          nobody = "nobody is there, waiting for processes" if known.empty?
          progress(goal: :ready, total: known.size, done: ready.size, pending: others, remarks: [nobody])
          return @last if others.empty? && known.any?

          pause
          known = look.values.select { |member| @selection.include?(member) && !member.gone? }
        end
      end

      # Those that have not drained, which one look does not tell of processes without this gem.
      def still_busy(members)
        pursuit = pursuit(:drained, members)
        while pursuit.members.any? { |member| pursuit.undecided?(member) }
          pursued(pursuit)
          pause
          look
        end
        pursuit.members.reject { |member| member.gone? || pursuit.drained?(member) }
      end

      # ---- on the way ----

      # Tells those of a pursuit whose turn it is, and waits until none of them is on the way any more.
      def pursue(pursuit, turn = pursuit.members, signal: nil)
        identities = turn.map(&:identity)
        pursued(pursuit, identities)
        tell(turn, signal) if signal
        until pursuit.pending(identities).empty?
          pause
          look
          tell_again(pursuit.pending(identities), signal) if signal
          pursued(pursuit, identities)
        end
        reached(pursuit, identities)
      end

      def reached(pursuit, identities = pursuit.identities)
        raise NotReached.new(never(pursuit), @last) if identities.any? { |identity| pursuit.failed.key?(identity) }

        @last
      end

      # Each pipeline is reported: whatever ends this in the middle, it is known how many have been told.
      def tell(members, signal)
        patiently do
          untold = members.reject { |member| @told[signal].key?(member.identity) }
          @registry.tell(untold, signal) do |slice|
            slice.each { |member| @told[signal][member.identity] = now }
            report(@last.later(elapsed: now - @begun, told:))
          end
        end
      end

      # Told once more, whoever shows no effect although his heart beats.
      def tell_again(members, signal)
        deaf = members.select do |member|
          told = @told[signal][member.identity]
          told && now - told > REPEAT && (signal == "TSTP" ? !member.quiet? : member.state != :stopping)
        end
        deaf.each { |member| @told[signal].delete(member.identity) }
        tell(deaf, signal) unless deaf.empty?
      end

      def pursued(pursuit, identities = pursuit.identities)
        progress(goal: pursuit.goal, total: pursuit.members.size, done: pursuit.reached.size,
                 pending: pursuit.pending(identities), failed: pursuit.failed_by_name)
      end

      def progress(goal:, total:, done:, pending: [], failed: {}, remarks: [])
        remark = [@batch, *remarks, *company(goal, pending), @left_alone, @targets.left_out].compact.join("; ")
        report(Progress.new(goal:, total:, done:, pending:, failed:, jobs: jobs(goal, pending), elapsed: now - @begun,
                            timeout: @timeout, remark: (remark unless remark.empty?), told:))
      end

      # Who ends although nobody asked for it. The first progress comes before anybody is told.
      def company(goal, pending) = goal == :stopped ? pending.filter_map(&:company_in_words) : []

      def report(progress)
        @last = progress
        @listener&.call(progress)
      end

      def jobs(goal, pending)
        busy = pending.select { |member| member.busy.positive? }
        return [] if busy.empty? || !%i[drained stopped].include?(goal)

        @registry.jobs(busy.first(JOBS_OF))
      rescue *SidekiqCompat.redis_errors
        [] # the next look will tell
      end

      def look
        patiently do
          began = now
          members = @registry.members(@pursuits.flat_map(&:identities))
          @look_takes = now - began
          @pursuits.each { |pursuit| pursuit.see(members, began - (@looked_at || @begun)) }
          @replacements.see(members, now - @begun)
          @looked_at = began
          members
        end
      end

      # Redis may be away for a while; what it was told before is not told twice.
      def patiently
        yield.tap { @away_since = nil }
      rescue *SidekiqCompat.redis_errors => e
        wait_for_redis(e)
        retry
      end

      # It is first asked patiently when there is something to report.
      def wait_for_redis(error)
        @away_since ||= now
        if now - @away_since > PATIENCE
          seen = "when it was seen last: #{@last}"
          why = Text.masked(error.message)
          raise Unreachable.new("Redis has not answered for #{PATIENCE} s: #{why}; #{seen}", @last)
        end

        remark = "Redis does not answer (#{Text.masked(error.message)}), trying again"
        trouble = @last.later(elapsed: now - @begun, remark:)
        @listener&.call(trouble)
        pause(trouble)
      end

      # To the next look, or to the end of the time.
      def pause(progress = @last)
        left = @timeout ? @timeout - (now - @begun) : Float::INFINITY
        raise TimedOut.new("timed out after #{Words.span(@timeout)}: #{progress}", progress) if left <= 0

        sleep([left, [PAUSE, 4 * @look_takes.to_f].max].min) # rubocop:disable Style/ComparableClamp
      end

      # ---- in words ----

      def told = @told.to_h { |signal, members| [WORDS.fetch(signal), members.size] }

      def never(pursuit)
        reasons = pursuit.failed_by_name.map { |name, reason| "#{name} #{reason}" }
        "#{reasons.size} of #{pursuit.members.size} not #{pursuit.goal}: #{Words.list(reasons)}"
      end

      def left_alone(busy)
        names = busy.map { |member| "#{member.name} (#{Words.count(member.busy, "job")})" }
        "still busy and left alone: #{Words.list(names)}"
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
