# frozen_string_literal: true

require_relative "flight_recorder"
require_relative "text"

module SidekiqLifecycle
  # Pushes interrupted jobs back into their queues, as Sidekiq's `bulk_requeue` does (`fetch.rb`). Sidekiq tries once,
  # and does not report whether that worked.
  #
  # @api private
  class BulkRequeue
    # Seconds for which Redis may be away. Sidekiq gives its threads as many to end once their jobs are pushed back
    # (`manager.rb`, `hard_shutdown`), and both take place in the same seconds, so no stop takes longer than before.
    PATIENCE = 3
    # Seconds between two attempts.
    PAUSE = 0.1

    # @param config [Object] answers `redis` and `logger`
    def initialize(config)
      @config = config
    end

    # @param jobs [Array<#queue, #job>] Sidekiq's units of work
    # @return [StandardError, nil] why the jobs are not in Redis; nil: they are
    def call(jobs)
      deadline = now + PATIENCE
      has_warned = false
      begin
        push(jobs)
        FlightRecorder.clear_all(jobs)
        @config.logger.info("Pushed #{jobs.size} jobs back to Redis")
        nil
      rescue StandardError => e
        return e if now + PAUSE > deadline

        warn_of(e, jobs) unless has_warned
        has_warned = true
        sleep PAUSE
        retry
      end
    end

    private

    # What is not in the flight recorder is pushed as a whole or not at all. If only the reply got lost, it is in Redis
    # twice, which is better than not at all.
    def push(jobs)
      others = FlightRecorder.push_back(jobs)
      return if others.empty?

      @config.redis do |redis|
        redis.multi do |transaction|
          others.group_by(&:queue).each { |queue, units| transaction.rpush(queue, units.map(&:job)) }
        end
      end
    end

    def warn_of(error, jobs)
      count = jobs.one? ? "a job" : "#{jobs.size} jobs"
      @config.logger.warn("sidekiq_lifecycle: cannot push #{count} back to Redis (#{Text.error(error)}), trying " \
                          "again for #{PATIENCE} s")
    end

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
