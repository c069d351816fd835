# frozen_string_literal: true

require_relative "text"

module SidekiqLifecycle
  # Puts jobs back into their queues, as Sidekiq does with those it has cut off (`fetch.rb`, `bulk_requeue`). Sidekiq
  # tries once, and keeps to itself whether that worked.
  #
  # @api private
  class PushBack
    # Seconds for which Redis may be away: Sidekiq gives its threads as many to end, once their jobs are pushed back
    # (`manager.rb`, `hard_shutdown`), and the two go on together. So no stop takes longer (`EPILOGUE`,
    # `src/model/stop_timeout.rs`).
    PATIENCE = 3
    # Seconds between two tries.
    PAUSE = 0.1

    # @param config [Object] what answers `redis` and `logger`
    def initialize(config)
      @config = config
    end

    # @param jobs [Array<#queue, #job>] Sidekiq's units of work
    # @return [StandardError, nil] why they are not there; nil: they are
    def call(jobs)
      deadline = now + PATIENCE
      warned = false
      begin
        push(jobs)
        @config.logger.info("Pushed #{jobs.size} jobs back to Redis")
        nil
      rescue StandardError => e
        return e if now + PAUSE > deadline

        warn_of(e, jobs) unless warned
        warned = true
        sleep PAUSE
        retry
      end
    end

    private

    # All or none. What got lost was the answer, perhaps: then they are there twice, which is better than not at all.
    def push(jobs)
      @config.redis do |redis|
        redis.multi do |transaction|
          jobs.group_by(&:queue).each { |queue, those| transaction.rpush(queue, those.map(&:job)) }
        end
      end
    end

    def warn_of(error, jobs)
      count = jobs.one? ? "a job" : "#{jobs.size} jobs"
      @config.logger.warn("sidekiq_lifecycle: Redis does not take #{count} back (#{Text.error(error)}); trying again " \
                          "for #{PATIENCE} s")
    end

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
