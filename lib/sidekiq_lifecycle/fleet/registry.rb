# frozen_string_literal: true

require "json"
require_relative "../announcement"
require_relative "../sidekiq_compat"
require_relative "member"
require_relative "words"

module SidekiqLifecycle
  class Fleet
    # Sidekiq's own registry in Redis: the set of its processes, what each published at its last beat, and the list
    # through which each is told something (`api.rb`, `launcher.rb`). Everything of many processes is asked and told in
    # pipelines of {SLICE}, so the round trips hardly grow with the fleet; no key is searched for.
    #
    # @api private
    class Registry
      # Commands in one pipeline.
      SLICE = 1000
      # One job that is being run.
      Job = Struct.new(:member, :job_class, :jid, :since, keyword_init: true) do
        # @return [Float] seconds since it began
        def age = [Time.now.to_f - since, 0].max

        # @return [Hash{Symbol => Object}] to serialise
        def to_h = { class: job_class, jid:, process: Words.readable(member.identity), running_for: age.round(1) }
      end

      # @param config [Object] what answers `redis`: the module `Sidekiq`, or a `Sidekiq::Config`
      def initialize(config)
        @config = config
      end

      # The first look of an operation, which shows whether Redis can be reached at all.
      #
      # @return (see #members)
      # @raise [Unreachable]
      def first_look
        members
      rescue *SidekiqCompat.redis_errors => e
        raise Unreachable, "Redis does not answer: #{Text.masked(e.message)}"
      end

      # @param also [Enumerable<String>] identities to read even if they are no longer listed
      # @return [Hash{String => Member}] by identity
      def members(also = [])
        listed = @config.redis { |redis| redis.smembers("processes") }.sort
        identities = listed | also.to_a
        replies = in_slices(identities, 3) do |redis, identity|
          redis.hmget(identity, "info", "busy", "beat", "quiet", "concurrency")
          redis.pttl(identity)
          redis.get(Announcement.key(identity))
        end
        listed = listed.to_h { |identity| [identity, true] }
        identities.zip(replies).to_h { |identity, reply| [identity, member(identity, listed.key?(identity), *reply)] }
      end

      # Tells processes something. Redis keeps it until their next beat, and forgets it after a minute.
      #
      # @param members [Array<Member>]
      # @param signal [String] "TSTP" or "TERM"
      # @yield [members] those that have been told, a pipeline at a time
      def tell(members, signal)
        members.each_slice(SLICE / 2) do |slice|
          pipelined(slice.map { |member| "#{member.identity}-signals" }) do |redis, key|
            redis.lpush(key, signal)
            redis.expire(key, Announcement::EXPIRY)
          end
          yield slice
        end
      end

      # @param members [Array<Member>]
      # @return [Array<Job>] what they have in hand, the longest running first
      def jobs(members)
        keys = SidekiqCompat::WORK_KEYS
        replies = in_slices(members, keys.size) do |redis, member|
          keys.each { |key| redis.hvals("#{member.identity}:#{key}") }
        end
        jobs = members.zip(replies).flat_map { |member, works| works.flatten.filter_map { |work| job(member, work) } }
        jobs.sort_by(&:since)
      end

      private

      def in_slices(things, commands, &ask)
        replies = things.each_slice(SLICE / commands).flat_map { |slice| pipelined(slice, &ask) }
        replies.each_slice(commands)
      end

      def pipelined(things)
        @config.redis do |redis|
          redis.pipelined { |pipeline| things.each { |thing| yield pipeline, thing } }
        end
      end

      # Redis counts the time since the last beat: what the process calls now may be another time.
      def member(identity, listed, fields, ttl, published)
        fields = %w[info busy beat quiet concurrency].zip(fields).to_h
        beat_age = [Announcement::EXPIRY - (ttl / 1000.0), 0].max if ttl.positive?
        Member.new(identity, listed:, fields:, beat_age:, published:)
      end

      # ActiveJob hides the class.
      def job(member, work)
        work = JSON.parse(Words.readable(work))
        payload = SidekiqCompat.payload(work)
        job_class = payload["wrapped"] || payload["class"]
        Job.new(member:, job_class:, jid: payload["jid"], since: work["run_at"].to_f)
      rescue JSON::ParserError, NoMethodError, TypeError
        nil # not what any Sidekiq writes
      end
    end
  end
end
