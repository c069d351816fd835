# frozen_string_literal: true

require "json"
require_relative "sidekiq_compat"
require_relative "text"

module SidekiqLifecycle
  # What a process publishes for the fleet: a key in Redis beside Sidekiq's own. The heartbeat's thread writes it at
  # each heartbeat. It expires when the heartbeats stop.
  #
  # @api private
  class RedisStatus
    # The version of its format. A reader ignores fields that it does not know.
    SCHEMA = 1
    # Seconds until it expires, as with Sidekiq's own keys (`launcher.rb`, `expire(key, 60)`).
    EXPIRY = 60
    # What is appended to the identity of a process in the name of its key.
    SUFFIX = ":lifecycle"

    # @param identity [String] Sidekiq's name for the process
    # @return [String] the key
    def self.key(identity) = "#{identity}#{SUFFIX}"

    # @param config [Object] answers `redis`
    def initialize(config)
      @config = config
    end

    # Sidekiq's heartbeat has reached Redis (its event `:beat`).
    def record_beat = @has_beaten = true

    # @param result [Object] what `❤` has returned
    # @return [Boolean] whether the heartbeat that has just ended reached Redis
    def beat_reached?(result)
      SidekiqCompat.beat_reached_redis?(@config, @has_beaten, result)
    ensure
      @has_beaten = false
    end

    # Publishes the status in one round trip. If Redis has gone away since Sidekiq's own message, Sidekiq reports that
    # at its next heartbeat.
    #
    # @param identity [String]
    # @param status [Status]
    # @param cut_off [Integer] jobs that were interrupted at Sidekiq's shutdown timeout
    # @param lost [Integer] jobs that could not be pushed back
    # @return [String, nil] why Redis refuses it
    def publish(identity, status, cut_off:, lost:)
      fields = { schema: SCHEMA, version: status.version, sidekiq: status.sidekiq_version, state: status.state,
                 since: status.since.iso8601(3), ready: status.ready?, drained: status.drained?,
                 drained_at: status.timings[:drained]&.iso8601(3), cut_off:, lost:, never_drains: status.never_drains,
                 company: status.company, signal_path: status.signal_path }
      @config.redis { |redis| redis.set(self.class.key(identity), JSON.generate(fields), ex: EXPIRY) }
      nil
    rescue *SidekiqCompat.connection_errors
      nil
    rescue *SidekiqCompat.command_errors => e
      "Redis refuses the status that this process publishes for the fleet (#{Text.error(e)})"
    end
  end
end
