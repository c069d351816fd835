# frozen_string_literal: true

require_relative "sidekiq_compat"

module SidekiqLifecycle
  # How long a hanging Redis can block Sidekiq's heartbeat, by the timeouts of the application's Redis client. A Redis
  # that refuses connections blocks nothing.
  #
  # @api private
  module RedisTimeouts
    # Seconds without a heartbeat after which `live` fails.
    LIVE = Native::MAX_BEAT_AGE

    class << self
      # Whether that is too long for `live`, or for systemd's watchdog.
      #
      # @param config [Object] answers `redis`
      # @param watchdog [Float, nil] its seconds, if Sidekiq's heartbeat feeds it
      # @return [String, nil] the problem
      def problem(config, watchdog)
        longest = silence(config)
        return unless longest && longest >= [watchdog, LIVE].compact.min

        effect = "check live fails after #{LIVE} s"
        effect = "systemd's watchdog kills it, with its jobs, after #{watchdog.round} s" if watchdog && watchdog < LIVE
        "with the timeouts of this application's Redis client, a hanging Redis can block Sidekiq's heartbeat for " \
          "#{longest.ceil} s, and #{effect}: set shorter timeouts in config.redis" \
          "#{", or WatchdogSec=#{(longest / 10).floor.succ * 10}" if watchdog && watchdog < LIVE}"
      end

      # The longest time between two signs of life: a heartbeat that waits for Redis in each of its round trips, or a
      # heartbeat that follows our own waiting message. A long heartbeat is another sign of life at its end.
      #
      # @return [Float, nil] seconds; nil: the client's timeouts are unknown
      def silence(config)
        trip = round_trip(config) or return
        [SidekiqCompat.heartbeat_round_trips * trip, trip + ::Sidekiq::Launcher::BEAT_PAUSE].max
      end

      private

      # The client retries after a timeout.
      def round_trip(config)
        *timeouts, pauses = config.redis { |client| SidekiqCompat.redis_timeouts(client) }
        return if timeouts.empty? || !timeouts.all?(Numeric)

        (timeouts.max * (pauses.size + 1)) + pauses.sum
      rescue StandardError
        nil
      end
    end
  end
end
