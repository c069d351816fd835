# frozen_string_literal: true

require_relative "drain_tracker"
require_relative "job_name"
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
    attr_writer :launcher

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
    # @param job [Hash, nil] nil: an unknown job
    def record_lost(error, job = nil)
      lose([job], error, quiet: SidekiqCompat.managers(@launcher).any?(&:stopped?))
    end

    # Sidekiq's shutdown timeout has passed. The running jobs start again, here or elsewhere.
    def record_interrupted(manager) = @tracker.record_interrupted(manager.workers.to_a.count(&:job))

    # Pushes interrupted jobs back to Redis. A job that has finished in the meantime is not lost if that fails.
    #
    # @param jobs [Array<#queue, #job>] Sidekiq's units of work
    # @return [Symbol] for {SidekiqPatches}: Sidekiq need not do it itself
    def push_back(jobs)
      error = BulkRequeue.new(@config).call(jobs)
      lose((jobs & ProcessorThreads.new(@launcher).jobs).map(&:job), error, quiet: true) if error
      :done
    end

    # Sidekiq waited for its scheduler's thread to end, and found that it had died.
    def record_scheduler_died(error) = @native.set_problem("scheduler", ProcessorThreads.scheduler_died(error))

    # @return [Boolean]
    def drained?
      threads = look
      @tracker.drained?(threads&.to_drain_threads)
    end

    # @return [Hash{Symbol => Integer}] how many jobs were interrupted (`cut_off`) and lost
    def counts = { cut_off: @tracker.interrupted, lost: @tracker.lost.size }

    # @return [Integer] jobs that were still running at Sidekiq's shutdown timeout
    def interrupted = @tracker.interrupted

    # @return [Array<String>] the names of lost jobs
    def lost_jobs = @tracker.lost.map { |job| job ? JobName.of(job) : "a job that had just been fetched" }

    private

    def lose(jobs, error, quiet:)
      before = @tracker.lost.size
      @tracker.record_lost(jobs, quiet:)
      return if @tracker.lost.size == before

      @lost_problem = "#{lost} lost (#{Text.error(error)}), so this process is not called drained: #{names}"
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

    def lost
      count = @tracker.lost.size
      "#{count == 1 ? "a job" : "#{count} jobs"} could not be pushed back to Redis and #{count == 1 ? "is" : "are"}"
    end

    def names
      known = @tracker.lost.compact
      unknown = @tracker.lost.size - known.size
      [*known.map { |job| JobName.of(job) }, ("#{unknown} just fetched" if unknown.positive?)].compact.join(", ")
    end
  end
end
