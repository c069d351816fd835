# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # A fixed set of processes on their way to a goal, from one look at Redis to the next. It knows neither Redis nor a
    # clock.
    #
    # Of a process that has this gem, its own word counts. Of another one only Sidekiq's count of busy threads is known,
    # and a count may be older than the quiet, or have been taken while a job was just being fetched: such a process is
    # called drained once a beat *later* than the first one that said quiet still counts nobody.
    #
    # @api private
    class Pursuit
      # Seconds for which a process may be missing without a trace before it counts as gone: Redis was started anew, or
      # another one has taken its place, and the process has not beaten since.
      MISSING = 60
      # Idle beats after which a process that has this gem, and does not call itself drained, will hardly do so soon.
      IDLE_BEATS = 3

      # What became of a process that has gone.
      KILLED = "fell silent, as if it had been killed: the jobs it had may be lost"
      FORGOTTEN = "has gone without a trace: nobody can tell whether it had drained"
      LEFT = "ended before it was seen to have drained"
      private_constant :KILLED, :FORGOTTEN, :LEFT

      # @return [Symbol] `:quiet`, `:drained` or `:stopped`
      attr_reader :goal
      # @return [Hash{String => String}] why some have not got there and hardly ever will, by identity
      attr_reader :failed

      # @param goal [Symbol]
      # @param members [Array<Member>]
      def initialize(goal, members)
        @goal = goal
        @traces = members.to_h { |member| [member.identity, Trace.new] }
        @members = members.to_h { |member| [member.identity, member] }
        look(0)
      end

      # Takes in another look at Redis.
      # @param members [Hash{String => Member}]
      # @param elapsed [Numeric] seconds since the last one
      def see(members, elapsed)
        @members = identities.to_h { |identity| [identity, members.fetch(identity)] }
        look(elapsed)
      end

      # @return [Array<String>]
      def identities = @traces.keys

      # @return [Array<Member>] all, as they were seen last
      def members = @members.values

      # @return [Array<Member>] those that have got there
      def reached = members.select { |member| there?(member) }

      # @param among [Array<String>] identities
      # @return [Array<Member>] those that may still get there
      def pending(among = identities)
        those = among.map { |identity| @members.fetch(identity) }
        those.reject { |member| there?(member) || failed.key?(member.identity) }
      end

      # @return [Hash{String => String}] the same as {#failed}, by name
      def failed_by_name = failed.transform_keys { |identity| @members.fetch(identity).name }

      # @return [Boolean] there is nothing left to wait for
      def over? = pending.empty?

      # @return [Boolean] the process has finished with every job, as far as is known by now
      def drained?(member) = trace(member).drained

      # @return [Boolean] who has failed is there, and says himself that he can never drain
      def stuck? = failed.any? && failed.keys.all? { |identity| @members.fetch(identity).never_drains }

      # @return [Boolean] a few more beats will tell whether it has finished with every job
      def undecided?(member)
        idle_beats = trace(member).idle_beats
        !drained?(member) && !member.gone? && idle_beats.any? && idle_beats.size < IDLE_BEATS
      end

      # What is remembered of a process.
      class Trace
        # @return [Boolean] it has finished with every job
        attr_reader :drained
        # @return [Array<Float>] the beats at which it was quiet and counted no job, since it last counted one
        attr_reader :idle_beats
        # @return [Numeric, nil] the seconds for which there has been no trace of it; nil: there is one
        attr_reader :missing
        # @return [Boolean] it was seen to have left as Sidekiq leaves
        attr_reader :left

        def initialize
          @idle_beats = []
          @drained = @left = @has_gem = false
        end

        # @param member [Member]
        # @param elapsed [Numeric] seconds since the last look
        def see(member, elapsed)
          @has_gem ||= !member.published.nil?
          @drained = true if member.drained?
          member.gone? ? see_gone(member, elapsed) : see_there(member)
        end

        private

        def see_gone(member, elapsed)
          @left ||= !member.ghost? && !member.beat.nil?
          @missing = member.ghost? || @left ? nil : (@missing || 0) + elapsed
        end

        def see_there(member)
          @missing = nil
          return unless member.quiet?

          @quiet_since ||= member.beat
          return @idle_beats = [] if member.busy.positive?

          @idle_beats |= [member.beat]
          @drained = true if !@has_gem && member.beat > @quiet_since
        end
      end

      private

      def trace(member) = @traces.fetch(member.identity)

      def look(elapsed)
        members.each { |member| trace(member).see(member, elapsed) }
        @failed = @members.transform_values { |member| failure(member) }.compact
      end

      def there?(member)
        case goal
        when :quiet then member.gone? ? ended?(member) : member.quiet?
        when :drained then drained?(member)
        when :stopped then ended?(member)
        end
      end

      # It left, or had nothing more to lose.
      def ended?(member) = trace(member).left || (drained?(member) && for_good?(member))

      # Not just without a trace, which may not be for long.
      def for_good?(member)
        missing = trace(member).missing
        member.gone? && (missing.nil? || missing > MISSING)
      end

      def failure(member)
        return if drained?(member)

        own_word(member) || (fate(member) if for_good?(member))
      end

      # What it says itself.
      def own_word(member)
        case goal
        when :drained then "can never drain: #{member.never_drains}" if member.never_drains
        when :stopped then "has ended and lost #{Words.count(member.lost, "job")}" if lost?(member)
        end
      end

      def fate(member)
        return KILLED if member.ghost?
        return FORGOTTEN unless trace(member).left

        left(member) if goal == :drained
      end

      def lost?(member) = member.gone? && member.lost.positive?

      def left(member)
        return "#{LEFT} (#{Words.count(member.lost, "job")} lost)" if member.lost.positive?
        return LEFT unless member.cut_off.positive?

        "#{LEFT} (#{member.cut_off} cut off at its timeout and pushed back)"
      end
    end
  end
end
