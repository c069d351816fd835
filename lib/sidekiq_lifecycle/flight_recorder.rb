# frozen_string_literal: true

require_relative "error"
require_relative "put_back"
require_relative "reply_watch"
require_relative "sidekiq_compat"
require_relative "text"

module SidekiqLifecycle
  # Records which jobs this process has in hand, so that a SIGKILL leaves their payloads behind: the native core writes
  # them to a file in memory (`src/worker/recorder.rs`). A job is recorded as soon as Redis' reply arrives, and cleared
  # once Sidekiq is done with it: acknowledged, requeued, or pushed back. A job with neither stays in the file, and the
  # next process puts it back.
  #
  # @api private
  class FlightRecorder
    # A token has the number of the job above this many bits (`src/worker/recorder.rs`, `BLOCK_BITS`).
    NUMBER_SHIFT = 16

    # The mark of a job that its own process has pushed back.
    OWN = "its own process"

    # Pushes each job that has no mark, and marks it. A queue that is no list keeps nothing from the others.
    #
    # KEYS: marks, then the queue of each job. ARGV: who does it, seconds until the marks expire, then for each job its
    # number and its payload. Returns the last error.
    PUSH_ONCE = <<~LUA
      local failure = false
      for i = 2, #KEYS do
        local number, payload = ARGV[i * 2 - 1], ARGV[i * 2]
        if redis.call("HEXISTS", KEYS[1], number) == 0 then
          local reply = redis.pcall("RPUSH", KEYS[i], payload)
          if type(reply) == "table" and reply.err then
            failure = reply.err
          else
            redis.call("HSET", KEYS[1], number, ARGV[1])
          end
        end
      end
      redis.call("EXPIRE", KEYS[1], ARGV[2])
      return failure
    LUA
    private_constant :PUSH_ONCE

    class << self
      # Starts it in `:startup`, before Sidekiq's threads exist, so no job is missed.
      #
      # @param config [Object] Sidekiq's
      # @param native [Native::Process]
      # @return [void]
      def start(config, native)
        native.start_recorder(SidekiqCompat.concurrency(config))
        @late_looks = native.recorder_id ? 0 : 2
        @config = config
        @foreign_fetch = foreign_fetch_of(config)
        @foreign_fetch ? ::Sidekiq::Processor.prepend(Processor) : prepend_to_basic_fetch
        @native = native
      end

      # @return [String, nil] the name of a fetch class that is not Sidekiq's own. It may keep a copy of each job, so
      #   jobs are only named, and not put back.
      attr_reader :foreign_fetch

      # @return [Boolean] whether what this process has in hand outlives it, and the next one puts it back
      def keeps? = !foreign_fetch && !@native&.recorder_id.nil?

      # A heartbeat. The recorder may have been made late, because the machine was busy or its directory could not be
      # used. Then this records what was fetched before: twice, because a job may just be on its way from the fetch to
      # its thread.
      #
      # @yieldreturn [Array<Object>, nil] units of work that Sidekiq's threads have; nil: that is not known yet
      def catch_up
        return unless @late_looks&.positive? && @native.recorder_id

        jobs = yield or return
        @late_looks -= 1
        jobs.each { |work| record_late(work) }
      end

      # Runs a fetch whose job is recorded as soon as Redis' reply arrives. If the fetch raises after that, as Sidekiq's
      # `Shutdown` may also in an idle thread, nobody else knows the job, and it stays recorded.
      #
      # @param fetcher [Sidekiq::BasicFetch]
      # @yieldreturn [Sidekiq::BasicFetch::UnitOfWork, nil]
      # @return [Sidekiq::BasicFetch::UnitOfWork, nil]
      def fetch(fetcher, &block)
        watch = ReplyWatch.current
        work = watch.fetch(@native, fetcher, &block)
        if work.respond_to?(:lifecycle_token=)
          work.lifecycle_token = record(work, awaited: watch.token)
        else
          clear(watch.token) # whoever took it from the fetch, or put it into a unit of work of its own, deals with it
        end
        work
      end

      # A job has just been fetched. Called on its thread.
      #
      # @param work [#queue, #job] Sidekiq's unit of work
      # @param kept [Boolean] whether the fetch keeps a copy
      # @param awaited [Integer, nil] the token under which it is recorded already
      # @return [Integer, nil] a token for {clear}
      def record(work, kept: false, awaited: nil)
        @native&.record_job(work.queue, work.job, kept, awaited)
      rescue StandardError
        nil # not a unit of work as Sidekiq's own is
      end

      # Sidekiq is done with a job. Called on its thread.
      #
      # @param token [Integer, nil]
      def clear(token) = (@native.clear_job(token) if token)

      # Pushes recorded jobs back into their queues, each once. What is marked is in Redis: the fleet has put it back,
      # or it was pushed and Redis' reply got lost.
      #
      # @param jobs [Array<Object>] Sidekiq's units of work
      # @return [Array<Object>] those that it leaves to Sidekiq's own way, because they are not recorded, or because
      #   Redis refuses the script
      # @raise [StandardError] Redis does not take them
      def push_back(jobs)
        recorded, others = jobs.partition { |work| token_of(work) }
        push_once(recorded) if recorded.any?
        others
      rescue StandardError => e
        raise unless SidekiqCompat.refusal?(e)

        jobs
      end

      # These jobs are in their queues again.
      #
      # @param jobs [Array<Object>] Sidekiq's units of work
      def clear_all(jobs) = jobs.each { |work| work.lifecycle_finish if work.respond_to?(:lifecycle_finish) }

      private

      # Sidekiq may be done with it at any moment. Whoever comes last, here or there, clears it.
      def record_late(work)
        return unless work.respond_to?(:lifecycle_token=) && work.lifecycle_token.nil?

        work.lifecycle_token = record(work)
        clear(work.lifecycle_token) if work.lifecycle_done
      end

      def token_of(work) = (work.lifecycle_token if work.respond_to?(:lifecycle_token))

      def push_once(jobs)
        keys = [PutBack.marks(@native.recorder_id), *jobs.map(&:queue)]
        arguments = [OWN, PutBack::EXPIRY.to_s]
        jobs.each { |work| arguments.push((token_of(work) >> NUMBER_SHIFT).to_s, work.job) }
        failure = @config.redis { |redis| SidekiqCompat.evaluate(redis, PUSH_ONCE, keys, arguments) }
        raise Error, failure if failure
      end

      def prepend_to_basic_fetch
        ::Sidekiq::BasicFetch.prepend(Fetch)
        ::Sidekiq::BasicFetch::UnitOfWork.prepend(UnitOfWork)
      end

      def foreign_fetch_of(config)
        fetch = SidekiqCompat.fetch_class(config)
        # It may have been extended, by us or by others, but not replaced.
        return if fetch.nil? || ::Sidekiq::BasicFetch.ancestors.include?(fetch.instance_method(:retrieve_work).owner)

        Text.one_line(fetch.name || fetch.inspect)
      rescue NameError
        Text.one_line(fetch.to_s)
      end
    end

    # Sidekiq::BasicFetch
    module Fetch
      # From BRPOP's reply on, only this process knows the job (`fetch.rb`).
      def retrieve_work = FlightRecorder.fetch(self) { super() }
    end

    # Sidekiq::BasicFetch::UnitOfWork. Sidekiq acknowledges a job that has ended, or whose retry it has pushed
    # (`processor.rb`, `process`), and requeues one that it has fetched while it goes quiet (`fetch`).
    module UnitOfWork
      # @return [Integer, nil] for {FlightRecorder.clear}
      attr_accessor :lifecycle_token
      # @return [Boolean, nil] whether Sidekiq is done with it
      attr_reader :lifecycle_done

      # Sidekiq is done with it.
      def lifecycle_finish
        @lifecycle_done = true
        FlightRecorder.clear(@lifecycle_token)
      end

      # It has ended.
      def acknowledge
        super.tap { lifecycle_finish }
      end

      # It is in its queue again.
      def requeue
        super unless FlightRecorder.push_back([self]).empty?
        lifecycle_finish
      end
    end

    # Sidekiq::Processor, where another fetch than Sidekiq's own is used
    module Processor
      private

      # From here until it is acknowledged, the processor has the job (`processor.rb`).
      def process(work)
        token = FlightRecorder.record(work, kept: true)
        super
      ensure
        FlightRecorder.clear(token)
      end
    end
  end
end
