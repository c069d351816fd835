# frozen_string_literal: true

require "json"
require_relative "../redis_status"
require_relative "../sidekiq_compat"
require_relative "format"
require_relative "process"

module SidekiqLifecycle
  class Fleet
    # Sidekiq's own registry in Redis: the set of its processes, what each has published at its last heartbeat, and the
    # list through which each receives signals (`api.rb`, `launcher.rb`). Nothing else here uses Redis. Commands for
    # many processes are sent in pipelines, and a script reads {SLICE} of them at a time, so round trips hardly grow
    # with the fleet. No key is searched for.
    #
    # @api private
    class Registry
      # Processes read at once, which Redis does in some 2 ms, and half of the commands in one pipeline.
      SLICE = 500
      # What Sidekiq publishes about a process, as far as it is used here.
      FIELDS = %w[info busy beat quiet concurrency].freeze
      # Reads many processes: the fields of each, when they expire, and what this gem has published. Three commands for
      # each process would take Ruby four times as long. Sidekiq uses scripts too (`scheduled.rb`).
      READ = <<~LUA.freeze
        local found = {}
        for _, key in ipairs(KEYS) do
          for _, field in ipairs(redis.call("HMGET", key, unpack(ARGV))) do
            found[#found + 1] = field
          end
          found[#found + 1] = redis.call("PTTL", key)
          found[#found + 1] = redis.call("GET", key .. "#{RedisStatus::SUFFIX}")
        end
        return found
      LUA
      # A running job.
      Job = Struct.new(:process, :job_class, :jid, :since, keyword_init: true) do
        # @return [Float] seconds since it started
        def age = [Time.now.to_f - since, 0].max

        # @return [Hash{Symbol => Object}] all fields, to serialise
        def to_h = { class: job_class, jid:, process: Format.readable(process.identity), running_for: age.round(1) }
      end

      # @param config [Object] answers `redis`: the module `Sidekiq`, or a `Sidekiq::Config`
      def initialize(config)
        @config = config
      end

      # The first poll of an operation, which shows whether Redis can be reached at all.
      #
      # @return (see #processes)
      # @raise [Unreachable]
      def first_poll
        processes
      rescue *SidekiqCompat.redis_errors => e
        raise Unreachable, "Redis does not answer: #{Text.masked(e.message)}"
      end

      # @param also [Enumerable<String>] identities to read even if they are no longer listed
      # @return [Hash{String => Process}] by identity
      def processes(also = [])
        listed = @config.redis { |redis| redis.smembers("processes") }.sort
        identities = listed | also.to_a
        listed = listed.to_h { |identity| [identity, true] }
        identities.zip(read(identities)).to_h do |identity, reply|
          [identity, process(identity, listed.key?(identity), *reply)]
        end
      end

      # Sends a signal to processes. Redis keeps it until their next heartbeat, and forgets it after a minute.
      #
      # @param processes [Array<Process>]
      # @param name [String] "TSTP" or "TERM"
      # @yield [processes] to which it was sent, a pipeline at a time
      def signal(processes, name)
        processes.each_slice(SLICE) do |slice|
          pipelined(slice.map { |process| "#{process.identity}-signals" }) do |redis, key|
            redis.lpush(key, name)
            redis.expire(key, RedisStatus::EXPIRY)
          end
          yield slice
        end
      end

      # @param processes [Array<Process>]
      # @return [Array<Job>] their running jobs, the longest running first
      def jobs(processes)
        keys = SidekiqCompat::WORK_KEYS
        replies = in_slices(processes, keys.size) do |redis, process|
          keys.each { |key| redis.hvals("#{process.identity}:#{key}") }
        end
        jobs = processes.zip(replies).flat_map do |process, works|
          works.flatten.filter_map { |work| job(process, work) }
        end
        jobs.sort_by(&:since)
      end

      private

      # Redis works on the next slice while Ruby receives the last one.
      def read(identities)
        replies = pipelined(identities.each_slice(SLICE)) do |redis, slice|
          SidekiqCompat.evaluate(redis, READ, slice, FIELDS)
        end
        replies.flat_map { |slice| slice.each_slice(FIELDS.size + 2).to_a }
      end

      def in_slices(things, commands, &ask)
        replies = things.each_slice(2 * SLICE / commands).flat_map { |slice| pipelined(slice, &ask) }
        replies.each_slice(commands)
      end

      def pipelined(things)
        @config.redis do |redis|
          redis.pipelined { |pipeline| things.each { |thing| yield pipeline, thing } }
        end
      end

      # Redis counts the time since the last heartbeat, because the process may have another clock.
      def process(identity, listed, info, busy, beat, quiet, concurrency, ttl, published) # rubocop:disable Metrics/ParameterLists -- as read
        fields = { "info" => info, "busy" => busy, "beat" => beat, "quiet" => quiet, "concurrency" => concurrency }
        beat_age = [RedisStatus::EXPIRY - (ttl / 1000.0), 0].max if ttl.positive?
        Process.new(identity, listed:, fields:, beat_age:, published:)
      end

      # ActiveJob hides the class.
      def job(process, work)
        work = JSON.parse(Format.readable(work))
        payload = SidekiqCompat.payload(work)
        job_class = payload["wrapped"] || payload["class"]
        Job.new(process:, job_class:, jid: payload["jid"], since: work["run_at"].to_f)
      rescue JSON::ParserError, NoMethodError, TypeError
        nil # no Sidekiq writes that
      end
    end
  end
end
