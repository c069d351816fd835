# frozen_string_literal: true

require_relative "words"

module SidekiqLifecycle
  class Fleet
    # Whom an operation is about: chosen from one look at Redis, when it begins.
    #
    # @api private
    class Targets
      # @return [Hash{String => Member}] all that there were, by identity
      attr_reader :known

      # @param known [Hash{String => Member}]
      # @param selection [Selection]
      def initialize(known, selection)
        @known = known
        @selection = selection
        @embedded = []
      end

      # @return [Array<Member>] all that match, ghosts too
      def matching = @matching ||= known.values.select { |member| @selection.include?(member) }

      # @return [Array<Member>] all that match and are there
      # @raise [NoMatch]
      def present
        raise NoMatch, nobody if matching.empty?
        raise NoMatch, "only ghosts#{meant}: processes that were killed, whom Sidekiq still lists" if there.empty?

        there
      end

      # @return [Array<Member>] all of them that can be told something
      # @raise [NoMatch]
      def steerable
        @embedded, free = present.partition(&:embedded?)
        return free unless free.empty?

        raise NoMatch, "all processes#{meant} run embedded in other programs, which alone can quiet and stop them"
      end

      # @return [Array<Member>] all of those that are quiet
      # @raise [NoMatch]
      def quiet
        quiet = steerable.select(&:quiet?)
        quiet.empty? ? raise(NoMatch, "no process#{meant} is quiet, so there is nobody to wake") : quiet
      end

      # @return [String, nil] who matches and is left out of what was chosen, in words
      def left_out
        ghosts = matching.size - there.size
        words = [(Words.count(ghosts, "ghost") if ghosts.positive?),
                 ("#{@embedded.size} embedded" unless @embedded.empty?)].compact
        "#{words.join(" and ")} left out" unless words.empty?
      end

      private

      def there = @there ||= matching.reject(&:ghost?)

      def meant = @selection.all? ? "" : " that match #{@selection}"

      def nobody
        return "no Sidekiq is registered in this Redis; is it the application's (-r, $REDIS_URL)?" if known.empty?

        "no process matches #{@selection}; there are #{known.size}, see them with: sidekiq-lifecycle fleet status"
      end
    end
  end
end
