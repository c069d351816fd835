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
      # @return [Array<Member>] all, as they were seen last
      attr_reader :members

      # @param goal [Symbol]
      # @param members [Array<Member>]
      def initialize(goal, members)
        @goal = goal
        @traces = members.to_h { |member| [member.identity, Trace.new] }
        @members = members
        look(0)
      end

      # Takes in another look at Redis.
      # @param members [Hash{String => Member}]
      # @param elapsed [Numeric] seconds since the last one
      def see(members, elapsed)
        @members = identities.map { |identity| members.fetch(identity) }
        look(elapsed)
      end

      # @return [Array<String>]
      def identities = @traces.keys

      # @return [Array<Member>] those that have got there
      def reached = @members.select { |member| there?(member) }

      # @return [Array<Member>] those that may still get there
      def pending = @members.reject { |member| there?(member) || failed.key?(member.identity) }

      # @return [Boolean] there is nothing left to wait for
      def over? = pending.empty?

      # @return [Boolean] the process has finished with every job, as far as is known by now
      def drained?(member) = trace(member).drained

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
        @members.each { |member| trace(member).see(member, elapsed) }
        @failed = @members.to_h { |member| [member.identity, failure(member)] }.compact
      end

      def there?(member)
        case goal
        when :quiet then member.quiet? && !missing?(member)
        when :drained then drained?(member)
        when :stopped then trace(member).left || (drained?(member) && for_good?(member))
        end
      end

      # Without a trace, but perhaps not for long.
      def missing?(member)
        missing = trace(member).missing
        !missing.nil? && missing <= MISSING
      end

      def for_good?(member) = member.gone? && !missing?(member)

      # What was drained has nothing more to lose.
      def failure(member)
        return if goal == :quiet || drained?(member) || !for_good?(member)
        return KILLED if member.ghost?
        return FORGOTTEN unless trace(member).left

        left(member) unless goal == :stopped
      end

      def left(member)
        return LEFT unless member.cut_off.positive?

        "#{LEFT} (#{member.cut_off} cut off at its timeout and pushed back)"
      end
    end
  end
end
