# frozen_string_literal: true

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

    class << self
      # Starts it in `:startup`, before Sidekiq's threads exist, so no job is missed.
      #
      # @param config [Object] Sidekiq's
      # @param native [Native::Process]
      # @return [void]
      def start(config, native)
        native.start_recorder(SidekiqCompat.concurrency(config))
        @foreign_fetch = foreign_fetch_of(config)
        @foreign_fetch ? ::Sidekiq::Processor.prepend(Processor) : prepend_to_basic_fetch
        @native = native
      end

      # @return [String, nil] the name of a fetch class that is not Sidekiq's own. It may keep a copy of each job, so
      #   jobs are only named, and not put back.
      attr_reader :foreign_fetch

      # @return [Boolean] whether what this process has in hand outlives it, and the next one puts it back
      def keeps? = !foreign_fetch && !@native&.recorder_id.nil?

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

      # Notes in a transaction of Redis that these jobs are in their queues again, so that nobody puts them back.
      #
      # @param transaction [Object] of a Redis client
      # @param jobs [Array<Object>] Sidekiq's units of work
      def mark(transaction, jobs)
        numbers = tokens(jobs).map { |token| token >> NUMBER_SHIFT }
        return if numbers.empty?

        marks = PutBack.marks(@native.recorder_id)
        transaction.hset(marks, *numbers.flat_map { |number| [number.to_s, OWN] })
        transaction.expire(marks, PutBack::EXPIRY)
      end

      # These jobs are in their queues again.
      #
      # @param jobs [Array<Object>] Sidekiq's units of work
      def clear_all(jobs) = tokens(jobs).each { |token| clear(token) }

      private

      def tokens(jobs)
        jobs.filter_map { |work| work.lifecycle_token if work.respond_to?(:lifecycle_token) }
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

      # It has ended.
      def acknowledge
        result = super
        FlightRecorder.clear(@lifecycle_token)
        result
      end

      # It is in its queue again.
      def requeue
        result = super
        FlightRecorder.clear(@lifecycle_token)
        result
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
