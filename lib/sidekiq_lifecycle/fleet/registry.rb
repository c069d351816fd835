# frozen_string_literal: true

require "json"
require_relative "../job"
require_relative "../redis_status"
require_relative "../sidekiq_compat"
require_relative "../transitions"
require_relative "format"
require_relative "process"

module SidekiqLifecycle
  class Fleet
    # Sidekiq's own registry in Redis: the set of its processes, what each has published at its last heartbeat, and the
    # list through which each receives signals (`api.rb`, `launcher.rb`). Only {KilledJobs} uses Redis
    # as well. Commands for
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
      READ = <<~LUA
        local found = {}
        local count = #KEYS / 2
        for place = 1, count do
          for _, field in ipairs(redis.call("HMGET", KEYS[place], unpack(ARGV))) do
            found[#found + 1] = field
          end
          found[#found + 1] = redis.call("PTTL", KEYS[place])
          found[#found + 1] = redis.call("GET", KEYS[count + place])
        end
        return found
      LUA
      # Entries of the timeline's stream that are read at once, which Redis does in some 5 ms.
      ENTRIES = 2000
      # Reads entries from one on. Every client returns a script's answer in the same form.
      READ_STREAM = 'return redis.call("XRANGE", KEYS[1], ARGV[1], "+", "COUNT", ARGV[2])'
      # Reads the last heartbeats, the stream's first entry, and Sidekiq's marks of deploys (`deploy.rb`).
      READ_BEATS = <<~LUA
        local found = { redis.call("ZRANGE", KEYS[1], 0, -1, "WITHSCORES"),
                        redis.call("XRANGE", KEYS[2], "-", "+", "COUNT", 1) }
        for place = 3, #KEYS do
          found[place] = redis.call("HGETALL", KEYS[place])
        end
        return found
      LUA
      private_constant :READ_STREAM, :READ_BEATS

      # What the processes have written for the timeline, and since when: for {Timeline#initialize}.
      History = Struct.new(:changes, :jobs, :beats, :marks, :known_from, keyword_init: true)
      # A running job.
      Job = Struct.new(:process, :job_class, :jid, :queue, :since, keyword_init: true) do
        # @return [Float] seconds since it started
        def age = [Time.now.to_f - since, 0].max

        # @return [String] for people: "ReportJob 1a2b (queue reports, running for 2 h) on worker-1:7"
        def to_s = "#{SidekiqLifecycle::Job.new(job_class:, jid:, queue:, running_for: age)} on #{process.name}"

        # @return [Hash{Symbol => Object}] all fields, to serialise
        def to_h
          { class: job_class, jid:, queue:, process: Format.readable(process.identity), running_for: age.round(1) }
        end
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
      # @param then_stop [Boolean] request as well that they stop once they have drained
      # @yield [processes] to which it was sent, a pipeline at a time
      def signal(processes, name, then_stop: false)
        processes.each_slice(SLICE) do |slice|
          pipelined(slice.map(&:identity)) do |redis, identity|
            redis.set("#{identity}#{RedisStatus::STOP_REQUEST}", "1", ex: RedisStatus::EXPIRY) if then_stop
            redis.lpush("#{identity}-signals", name)
            redis.expire("#{identity}-signals", RedisStatus::EXPIRY)
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

      # @param from [Time]
      # @param to [Time] now
      # @return [History] what Redis remembers of the processes that have run between these moments
      # @raise [Unreachable, Error] if Redis does not answer, or has no streams
      def history(from, to)
        days = (from.getutc.to_date..to.getutc.to_date).map { |day| "#{day.strftime("%Y%m%d")}-marks" }
        beats, first, *marks = read_beats(days)
        beats = beats.each_slice(2).to_h { |name, at| [Format.readable(name), at.to_f] }
        known_from = first.dig(0, 0)&.then { |id| id.to_i / 1000.0 }
        History.new(**changes_and_jobs_since(from, beats), beats:, known_from:,
                                                           marks: marks.flat_map { |day| marks_of(day) })
      rescue *SidekiqCompat.command_errors => e
        raise Error, "Redis has no timeline, which needs Redis 5 or later: #{Text.masked(e.message)}"
      rescue *SidekiqCompat.redis_errors => e
        raise Unreachable, "Redis does not answer: #{Text.masked(e.message)}"
      end

      private

      # A process that was killed may have had nothing to say for long. One that lives is known without it.
      def changes_and_jobs_since(from, beats)
        silent = beats.select { |_, at| at.between?(from.to_f, Time.now.to_f - RedisStatus::EXPIRY) }.keys
        recent = changes_and_jobs(milliseconds(from))
        silent.all? { |name| recent[:changes].key?(name) } ? recent : changes_and_jobs("-")
      end

      # A process repeats its earlier changes, so the last entry says all. A heartbeat that was on its way when it wrote
      # its end may come after that.
      def changes_and_jobs(from)
        lives = {}
        jobs = {}
        each_entry(from) do |entry|
          identity = entry["p"].to_s
          lives[identity] = entry["t"].to_s unless ended?(lives[identity])
          jobs[identity] = entry["j"] if entry["j"]
        end
        { changes: lives.to_h { |identity, life| [Format.readable(identity), Transitions.load(Format.readable(life))] },
          jobs: jobs.to_h { |identity, json| [Format.readable(identity), parse(json) || {}] } }
      end

      def ended?(life) = life&.match?(/(\A| )#{Transitions::LETTERS.fetch(:ended)}/)

      def each_entry(from)
        loop do
          entries = @config.redis do |redis|
            SidekiqCompat.evaluate(redis, READ_STREAM, [Transitions::STREAM], [from, ENTRIES])
          end
          entries.each { |_, fields| yield Hash[*fields] } # rubocop:disable Style/HashEachMethods -- it is a list
          return if entries.size < ENTRIES

          # Redis 6.2 and later could leave out an entry itself.
          milliseconds, number = entries.last.first.split("-")
          from = "#{milliseconds}-#{number.to_i + 1}"
        end
      end

      def read_beats(days)
        @config.redis { |redis| SidekiqCompat.evaluate(redis, READ_BEATS, [Transitions::BEATS, Transitions::STREAM, *days], []) }
      end

      def milliseconds(time) = (time.to_r * 1000).floor

      def marks_of(day)
        day.each_slice(2).map { |at, label| [Time.iso8601(at).to_f, Text.one_line(label)] }
      rescue ArgumentError
        [] # no Sidekiq writes that
      end

      def parse(json)
        value = JSON.parse(Format.readable(json)) if json
        value if value.is_a?(Hash)
      rescue JSON::ParserError
        nil
      end

      # Redis works on the next slice while Ruby receives the last one.
      def read(identities)
        replies = pipelined(identities.each_slice(SLICE)) do |redis, slice|
          SidekiqCompat.evaluate(redis, READ, [*slice, *slice.map { |identity| RedisStatus.key(identity) }], FIELDS)
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
        Job.new(process:, job_class:, jid: payload["jid"], queue: work["queue"], since: work["run_at"].to_f)
      rescue JSON::ParserError, NoMethodError, TypeError
        nil # no Sidekiq writes that
      end
    end
  end
end
