# frozen_string_literal: true

module SidekiqLifecycle
  # Decides when a process is drained: it takes no more jobs, and has finished every job it had. This is the gem's most
  # important promise, so the rule is here alone. It knows neither Sidekiq nor Redis, no thread and no clock. Its table
  # is spec/unit/drain_tracker_spec.rb.
  #
  # A process that has interrupted or lost a job never becomes drained, even if nothing is left to do.
  #
  # @api private
  class DrainTracker
    # Sidekiq's threads at one moment.
    #
    # - `stopped`: every manager has been told to stop, so a processor that ends is not replaced
    # - `alive`: how many processor threads are alive
    # - `abandoned`: how many jobs threads had that died without finishing them
    Threads = Struct.new(:stopped, :alive, :abandoned, keyword_init: true)

    # @return [Array<Job>] jobs that were still running at Sidekiq's shutdown timeout
    attr_reader :interrupted
    # @return [Array<Job>] lost jobs, which are neither finished nor in Redis
    attr_reader :lost

    def initialize
      @fetching_ended = @timed_out = false
      @interrupted = []
      @lost = []
    end

    # No more jobs come: neither from a queue, nor from the scheduler, whose thread has ended.
    def record_fetching_ended = @fetching_ended = true

    # Sidekiq's shutdown timeout has passed. Each manager reports its own jobs.
    #
    # @param jobs [Array<Job>] jobs that were still running
    # @return [void]
    def record_interrupted(jobs)
      @timed_out = true
      @interrupted += jobs
    end

    # A job lost before the process went quiet says nothing about the drain.
    #
    # @param jobs [Array<Job>]
    # @param quiet [Boolean] whether the process was already quiet
    # @return [void]
    def record_lost(jobs, quiet:)
      @lost += jobs if quiet
    end

    # @param threads [Threads, nil] nil: Sidekiq has not started its threads yet
    # @return [Boolean]
    def drained?(threads) = verdict(threads) == :drained

    # @param threads [Threads, nil]
    # @return [Symbol] `:drained`, or the first reason why not
    def verdict(threads)
      return :jobs_lost unless lost.empty?
      return :jobs_interrupted if @timed_out
      return :fetching unless @fetching_ended

      threads ? verdict_on(threads) : :not_started
    end

    # Whether nothing is left to wait for: no more jobs come, and no thread is alive that could finish one.
    #
    # @param threads [Threads, nil]
    # @return [Boolean]
    def over?(threads)
      @fetching_ended && !threads.nil? && threads.stopped && threads.alive.zero?
    end

    private

    def verdict_on(threads)
      return :not_stopped unless threads.stopped
      return :threads_alive if threads.alive.positive?

      threads.abandoned.positive? ? :jobs_abandoned : :drained
    end
  end
end
