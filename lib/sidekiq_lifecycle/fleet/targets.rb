# frozen_string_literal: true

require_relative "format"

module SidekiqLifecycle
  class Fleet
    # The processes that an operation is about, chosen from its first poll of Redis.
    #
    # @api private
    class Targets
      # @return [Hash{String => Process}] all processes at that time, by identity
      attr_reader :known

      # @param known [Hash{String => Process}]
      # @param selection [Selection]
      def initialize(known, selection)
        @known = known
        @selection = selection
        @embedded = []
      end

      # @return [Array<Process>] all that match, including ghosts. One that has left may still be listed for a minute.
      def matching
        @matching ||= known.values.select { |process| process.listed? && @selection.include?(process) }
      end

      # @return [Array<Process>] all that match and run
      # @raise [NoMatch]
      def present
        raise NoMatch, no_match if matching.empty?
        raise NoMatch, only_ghosts if living.empty?

        living
      end

      # @return [Array<Process>] all of them that can be quieted and stopped through Redis
      # @raise [NoMatch]
      def controllable
        @embedded, free = present.partition(&:embedded?)
        return free unless free.empty?

        raise NoMatch, "all processes#{criteria} run embedded in other programs, which alone can quiet and stop them"
      end

      # @return [Array<Process>] the same, if all of them can stop by themselves once they have drained
      # @raise [NoMatch]
      def able_to_stop_when_drained
        unable = controllable.reject(&:can_stop_when_drained?)
        return controllable if unable.empty?

        names = Format.list(unable.map(&:name))
        count = Format.count(unable.size, "process", "processes")
        them = unable.one? ? "it" : "them"
        raise NoMatch, "#{count} cannot stop once drained, because that needs sidekiq_lifecycle in #{them}: " \
                       "#{names}; leave #{them} out with --except, or run fleet stop --drain-first (no signal was sent)"
      end

      # @return [Array<Process>] all of those that are quiet
      # @raise [NoMatch]
      def quiet
        quiet = controllable.select(&:quiet?)
        quiet.empty? ? raise(NoMatch, "no process#{criteria} is quiet, so there is none to wake") : quiet
      end

      # @return [String, nil] how many match and were left out
      def left_out
        ghosts = matching.size - living.size
        words = [(Format.count(ghosts, "ghost") if ghosts.positive?),
                 ("#{@embedded.size} embedded" unless @embedded.empty?)].compact
        "#{words.join(" and ")} left out" unless words.empty?
      end

      private

      def living = @living ||= matching.reject(&:ghost?)

      def criteria = @selection.all? ? "" : " that match #{@selection}"

      def only_ghosts = "only ghosts#{criteria}: Sidekiq still lists them, but they had no heartbeat for 60 s or more"

      def no_match
        return "no Sidekiq is registered in this Redis; is it the application's (-r, $REDIS_URL)?" if known.empty?

        "no process matches #{@selection}; there are #{known.size}, see them with: sidekiq-lifecycle fleet status"
      end
    end
  end
end
