# frozen_string_literal: true

require "json"

module SidekiqLifecycle
  # What a process tells the fleet of itself: a key in Redis beside its Sidekiq heartbeat, written at each beat, on the
  # heartbeat's own thread, and forgotten when the beats stop.
  #
  # @api private
  class Announcement
    # The form of it; a reader passes over what it does not know.
    SCHEMA = 1
    # Seconds for which it counts; Sidekiq's own (`launcher.rb`, `expire(key, 60)`).
    EXPIRY = 60

    # @param identity [String] Sidekiq's name for the process
    # @return [String] the key
    def self.key(identity) = "#{identity}:lifecycle"

    # @param config [Object] what answers `redis`
    def initialize(config)
      @config = config
    end

    # Publishes it, in one round trip.
    #
    # @param identity [String]
    # @param status [Status]
    # @param cut_off [Integer] jobs that were cut off at Sidekiq's timeout
    def publish(identity, status, cut_off)
      words = { schema: SCHEMA, version: status.version, sidekiq: status.sidekiq_version, state: status.state,
                since: status.since.iso8601(3), ready: status.ready?, drained: status.drained?,
                drained_at: status.timings[:drained]&.iso8601(3), cut_off:, signal_path: status.signal_path }
      @config.redis { |redis| redis.set(self.class.key(identity), JSON.generate(words), ex: EXPIRY) }
    end

    # @return [Array<Class>] what is raised where Redis cannot be reached, by the client that is loaded
    def self.lost_connections
      clients = %w[Redis::BaseConnectionError RedisClient::ConnectionError ConnectionPool::TimeoutError]
      clients.select { |name| Object.const_defined?(name) }.map { |name| Object.const_get(name) }
    end
  end
end
