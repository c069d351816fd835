# frozen_string_literal: true

module SidekiqLifecycle
  # How long a Redis that hangs can keep Sidekiq's heartbeat waiting, by what the application has set for its client.
  # A Redis that refuses connections keeps nobody waiting.
  #
  # @api private
  module RedisTimeouts
    # Beyond this `live` takes a silent process for stuck (`MAX_BEAT_AGE`, `src/model/probe.rs`).
    LIVE = 60

    class << self
      # What is too long, in words: for `live`, or for systemd's watchdog.
      #
      # @param config [Object] what answers `redis`
      # @param watchdog [Float, nil] its seconds, where Sidekiq's heartbeat feeds it
      # @return [String, nil]
      def problem(config, watchdog)
        longest = silence(config)
        return unless longest && longest >= [watchdog, LIVE].compact.min

        victim = "check live takes it for stuck after #{LIVE} s"
        victim = "systemd's watchdog kills it, with its jobs, after #{watchdog.round} s" if watchdog && watchdog < LIVE
        "a Redis that hangs can silence Sidekiq's heartbeat for #{longest.ceil} s, as this application has set the " \
          "timeouts of its Redis client, and #{victim}: set shorter timeouts in config.redis" \
          "#{", or WatchdogSec=#{(longest / 10).floor.succ * 10}" if watchdog && watchdog < LIVE}"
      end

      # The longest time between two signs of life: a heartbeat that waits for Redis in each of its round trips, or one
      # that comes after our own has waited. A heartbeat that took long gives a sign at its end as well.
      #
      # @return [Float, nil] seconds; nil: the client cannot be asked
      def silence(config)
        trip = round_trip(config) or return
        [trips * trip, trip + ::Sidekiq::Launcher::BEAT_PAUSE].max
      end

      private

      # The round trips of one heartbeat (`launcher.rb`, `❤`): a transaction, a PING, a transaction; 7 and later write
      # the statistics before.
      def trips = Majors.capsules? ? 4 : 3

      # The client tries again where a try has timed out.
      def round_trip(config)
        *timeouts, pauses = config.redis { |client| settings(client) }
        return if timeouts.empty? || !timeouts.all?(Numeric)

        (timeouts.max * (pauses.size + 1)) + pauses.sum
      rescue StandardError
        nil
      end

      # The timeouts to connect, read and write, and the pauses before further tries.
      def settings(client)
        client = client.redis if defined?(::Redis::Namespace) && client.is_a?(::Redis::Namespace)
        return of_redis(client._client.options) if client.respond_to?(:_client) && client._client.respond_to?(:options)

        own = client.config
        again = own.instance_variable_get(:@reconnect_attempts) || []
        [own.connect_timeout, own.read_timeout, own.write_timeout, again.is_a?(Integer) ? [0] * again : again]
      end

      # redis-rb 4, of Sidekiq 6.
      def of_redis(options)
        [*options.values_at(:connect_timeout, :read_timeout, :write_timeout), [0] * options[:reconnect_attempts].to_i]
      end
    end
  end
end
