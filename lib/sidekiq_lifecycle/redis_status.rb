# frozen_string_literal: true

require "json"
require_relative "sidekiq_compat"
require_relative "text"
require_relative "transitions"

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
    # How many jobs of each kind are named.
    NAMED = 25
    # What is appended to the identity of a process in the name of its key.
    SUFFIX = ":lifecycle"

    # What is appended to the identity in the name of the key that requests to stop once drained.
    STOP_REQUEST = ":lifecycle:stop_when_drained"

    # @param identity [String] Sidekiq's name for the process
    # @return [String] the key
    def self.key(identity) = "#{identity}#{SUFFIX}"

    # @param config [Object] answers `redis`
    def initialize(config)
      @config = config
      @transitions = Transitions.new
      @left = false
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
    # @param interrupted [Array<Job>] jobs that were interrupted at Sidekiq's shutdown timeout
    # @param lost [Array<Job>] jobs that could not be pushed back
    # @param last [Boolean] whether Sidekiq leaves Redis with this message
    # @return [String, nil] why Redis refuses it
    def publish(identity, status, interrupted:, lost:, last: false)
      # A heartbeat that was on its way when Sidekiq left comes after that message.
      @left = last || (@left && %i[stopping stopped].include?(status.state))
      fields = { schema: SCHEMA, version: status.version, sidekiq: status.sidekiq_version, state: status.state,
                 since: status.since.iso8601(3), ready: status.ready?, drained: status.drained?,
                 drained_at: status.timings[:drained]&.iso8601(3), interrupted: interrupted.size, lost: lost.size,
                 interrupted_jobs: names(interrupted), lost_jobs: names(lost), never_drains: status.never_drains,
                 stops_when_drained: status.stops_when_drained?, company: status.company,
                 signal_path: status.signal_path, left: @left }
      news = @transitions.news(identity, status, interrupted:, lost:, last:) unless @timeline_problem
      exchange(identity, JSON.generate(fields), news)
    end

    # Redis keeps the request until it expires, so it may be read several times.
    #
    # @return [Boolean] whether the fleet has requested, since the last call, that the process stops once drained
    def take_stop_request = @stop_requested.tap { @stop_requested = false }

    private

    # Sends all of it in one round trip, and receives whether a stop is requested. What refuses the timeline (a Redis
    # before 5, or its access rules) does not hinder the rest.
    def exchange(identity, status, news)
      _, request = @config.redis do |redis|
        redis.pipelined do |pipeline|
          pipeline.set(self.class.key(identity), status, ex: EXPIRY)
          pipeline.get("#{identity}#{STOP_REQUEST}")
          @transitions.write(pipeline, news) if news
        end
      end
      @transitions.written(news) if news
      @stop_requested ||= !request.nil?
      @timeline_problem
    rescue *SidekiqCompat.connection_errors
      nil
    rescue *SidekiqCompat.command_errors => e
      unless news
        @timeline_problem = nil # it was not the timeline alone
        return "Redis refuses the status that this process publishes for the fleet (#{Text.error(e)})"
      end

      @timeline_problem = timeline_problem(e)
      exchange(identity, status, nil)
    end

    def timeline_problem(error)
      return unless SidekiqCompat.refusal?(error)

      "Redis refuses the timeline of this process, which needs Redis 5 (#{Text.error(error)})"
    end

    def names(jobs) = jobs.first(NAMED).map(&:to_h)
  end
end
