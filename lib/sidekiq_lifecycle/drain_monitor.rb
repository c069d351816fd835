# frozen_string_literal: true

require "json"
require_relative "drain_tracker"
require_relative "flight_recorder"
require_relative "job"
require_relative "processor_threads"
require_relative "bulk_requeue"
require_relative "sidekiq_compat"

module SidekiqLifecycle
  # Looks at Sidekiq's threads and at the jobs that get lost, for {DrainTracker}, and reports to the core what is wrong
  # with them.
  #
  # @api private
  class DrainMonitor
    # Sidekiq::Launcher, once it runs.
    attr_accessor :launcher

    # @param config [Object] answers `redis` and `logger`
    # @param native [Native::Process]
    def initialize(config, native)
      @config = config
      @native = native
      @tracker = DrainTracker.new
    end

    # Neither Sidekiq's queues nor its scheduler bring more jobs.
    def record_fetching_ended = @tracker.record_fetching_ended

    # @param error [Exception] why the job is lost
    # @param payload [Hash, nil] nil: an unknown job
    def record_lost(error, payload = nil)
      lose([Job.of(payload)], error, quiet: SidekiqCompat.managers(@launcher).any?(&:stopped?))
    end

    # Sidekiq's shutdown timeout has passed. The running jobs start again, here or elsewhere.
    #
    # @param timeout [Numeric] in seconds
    def record_interrupted(manager, timeout)
      jobs = manager.workers.to_a.filter_map(&:job).map { |unit| job(unit) }
      @tracker.record_interrupted(jobs)
      report_unfinished
      log_interrupted(jobs, timeout) if jobs.any?
    end

    # Pushes interrupted jobs back to Redis. A job that has finished in the meantime is not lost if that fails.
    #
    # @param jobs [Array<#queue, #job>] Sidekiq's units of work
    # @return [Symbol] for {SidekiqPatches}: Sidekiq need not do it itself
    def push_back(jobs)
      error = BulkRequeue.new(@config).call(jobs)
      return :done unless error

      running = jobs & ProcessorThreads.new(@launcher).jobs
      lose(running.map { |unit| job(unit) }, error, quiet: true)
      :done
    end

    # Sidekiq waited for its scheduler's thread to end, and found that it had died.
    def record_scheduler_died(error) = @native.set_problem("scheduler", ProcessorThreads.scheduler_died(error))

    # @return [Array(Boolean, Boolean)] whether the process has drained, and whether nothing is left to wait for
    def check
      threads = look&.to_drain_threads
      [@tracker.drained?(threads), @tracker.over?(threads)]
    end

    # @return [Array<Job>] jobs that were still running at Sidekiq's shutdown timeout
    def interrupted = @tracker.interrupted

    # @return [Array<Job>] jobs that are neither finished nor in Redis
    def lost = @tracker.lost

    # @return [Array<#queue, #job>, nil] units of work that Sidekiq's threads have; nil: it has not launched them yet
    def jobs = (ProcessorThreads.new(@launcher).jobs if @launcher)

    private

    def job(unit) = Job.of_unit(unit) { |jid| @native.running_for(jid) }

    def log_interrupted(jobs, timeout)
      were = jobs.one? ? "1 job was" : "#{jobs.size} jobs were"
      go = jobs.one? ? "goes back to its queue" : "go back to their queues"
      @config.logger.warn("sidekiq_lifecycle: #{were} still running after the shutdown timeout of #{timeout} s and " \
                          "#{go}: #{jobs.join(", ")}")
    end

    def report_unfinished
      @native.record_unfinished(*[interrupted, lost].map { |jobs| JSON.generate(jobs.map(&:to_h)) })
    end

    def lose(jobs, error, quiet:)
      before = @tracker.lost.size
      @tracker.record_lost(jobs, quiet:)
      return if @tracker.lost.size == before

      @lost_problem = "#{what_happened} (#{Text.error(error)}), so this process does not count as drained: " \
                      "#{lost.join(", ")}"
      report_unfinished
      look
    end

    # Reports dead threads and lost jobs, which limit what may be said about the process.
    def look
      return unless @launcher

      ProcessorThreads.new(@launcher).tap do |threads|
        { "lost_jobs" => @lost_problem, **threads.problems }.each { |name, problem| @native.set_problem(name, problem) }
        @native.record_hindrances(threads.takes_no_job, @lost_problem || threads.never_drains)
      end
    end

    def what_happened
      jobs, are, wait = lost.one? ? ["a job", "is", "waits"] : ["#{lost.size} jobs", "are", "wait"]
      fate = FlightRecorder.keeps? ? "#{wait} in the flight recorder for the next process" : "#{are} lost"
      "#{jobs} could not be pushed back to Redis and #{fate}"
    end
  end
end
