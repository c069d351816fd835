# frozen_string_literal: true

require "json"
require_relative "sidekiq_compat"
require_relative "text"

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

    # Sidekiq's heartbeat has reached Redis (its event :beat).
    def reached! = @reached = true

    # @param result [Object] what `❤` has returned
    # @return [Boolean] whether the last heartbeat has reached Redis
    def reached?(result)
      SidekiqCompat.beat_reached_redis?(@config, @reached, result)
    ensure
      @reached = false
    end

    # Publishes it, in one round trip. Where Redis has gone away since Sidekiq's own, its next one tells of it.
    #
    #
    # @param identity [String]
    # @param status [Status]
    # @param cut_off [Integer] jobs that were cut off at Sidekiq's timeout
    # @param lost [Integer] jobs that could not be pushed back
    # @return [String, nil] why Redis refuses it
    def publish(identity, status, cut_off:, lost:)
      words = { schema: SCHEMA, version: status.version, sidekiq: status.sidekiq_version, state: status.state,
                since: status.since.iso8601(3), ready: status.ready?, drained: status.drained?,
                drained_at: status.timings[:drained]&.iso8601(3), cut_off:, lost:, never_drains: status.never_drains,
                company: status.company, signal_path: status.signal_path }
      @config.redis { |redis| redis.set(self.class.key(identity), JSON.generate(words), ex: EXPIRY) }
      nil
    rescue *SidekiqCompat.connection_errors
      nil
    rescue *SidekiqCompat.command_errors => e
      "Redis refuses what this process tells the fleet of itself (#{Text.error(e)})"
    end
  end
end
