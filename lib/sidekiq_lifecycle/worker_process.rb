# frozen_string_literal: true

require "json"
require_relative "redis_status"
require_relative "drain_monitor"
require_relative "flight_recorder"
require_relative "job_copy"
require_relative "job_recovery"
require_relative "sidekiq_compat"
require_relative "status"
require_relative "task_protection"
require_relative "text"
require_relative "signal_traps"

module SidekiqLifecycle
  # The calling process as a Sidekiq: the native core's record of it, its jobs, and what is reported about it. There is
  # none before the process has turned out to be a Sidekiq.
  #
  # @api private
  class WorkerProcess
    # A problem.
    EMBEDDED_IDLE = "exit_when_idle has no effect, because Sidekiq runs inside another program, " \
                    "and only that program can end it"

    # @return [Native::Process]
    attr_reader :native
    # @return [DrainMonitor]
    attr_reader :drain
    # @return [RedisStatus]
    attr_reader :redis

    # Clears what a killed process has left, and lets probes ask, before the process registers.
    #
    # @param configuration [Configuration]
    def self.prepare(configuration)
      Native.clear(configuration.directory)
      Native.serve_http(configuration.http, configuration.directory)
    end

    # Records the exit of a process that has been registered, and that no object is there for: a signal has raised in
    # between. In a child that a job has forked it does nothing.
    def self.finish_unknown(exit_status, why)
      native = Native::Process.last
      native.record_exit(exit_status, why) if native&.ours? && native.state != "stopped"
    end

    # Registers the process in the lifecycle directory.
    #
    # @param config [Object] Sidekiq's
    # @param configuration [Configuration]
    # @param listeners [Listeners]
    # @param once_logger [OnceLogger]
    # @param embedded [Boolean] Sidekiq runs inside another program
    def initialize(config, configuration, listeners, once_logger, embedded:)
      @config = config
      @configuration = configuration
      @listeners = listeners
      @once_logger = once_logger
      @embedded = embedded
      serve_http
      @pid = ::Process.pid
      @native = Native::Process.register(configuration.directory, configuration.ready_file, about)
      @drain = DrainMonitor.new(config, @native)
      @redis = RedisStatus.new(config)
      @native.require_signal_path(configuration.require_signal_path)
      @native.set_problem("environment", configuration.environment_problem)
      @native.set_problem("exit_when_idle", EMBEDDED_IDLE) if embedded && configuration.exit_when_idle
    end

    # @return [Boolean] whether it is the calling process, and not the parent of a child that a job has forked
    def ours? = @pid == ::Process.pid

    # @return [Status]
    def status
      Status.new(JSON.parse(@native.report), @configuration, busy: @native.drained? ? 0 : SidekiqCompat.busy)
    end

    # Records settings that may have changed.
    def describe(config)
      @config = config
      serve_http
      @native.describe(about)
      @native.require_signal_path(@configuration.require_signal_path)
    end

    # Does what must be done before Sidekiq's threads exist.
    #
    # @param observe [Boolean] whether it takes signals itself
    def prepare_for_jobs(observe:)
      observe_signals if observe
      record_jobs if @configuration.recover_jobs
    end

    # Observes signals, keeps Sidekiq's traps in place, and logs from now on what the core finds wrong by itself.
    def observe_signals
      @traps = SignalTraps.new
      @native.observe_signals
      start_reporter
    end

    # Records from now on which jobs are in hand, and puts back what killed processes of this directory had in hand.
    def record_jobs
      FlightRecorder.start(@config, @native)
      fetch = FlightRecorder.foreign_fetch
      @config.logger.info("sidekiq_lifecycle: jobs that a SIGKILL takes are only named: #{fetch} fetches them") if fetch
      @recovery = JobRecovery.new(@config, @native, @configuration.recover_limit)
      @copy = JobCopy.new(@config, @native, @configuration.recover_limit)
      recover_jobs
    end

    # Puts back what killed processes of this directory had in hand.
    def recover_jobs
      @recovery&.call
    rescue StandardError => e
      failed("recover_jobs", e)
    end

    # Puts Sidekiq's trap back where a job or a library has set one over it.
    def restore_traps
      return unless @traps

      Native.displaced_signals.each do |signal|
        theirs = @traps.restore(signal)
        @native.record_restored_trap(signal)
        what = theirs ? "had been taken from Sidekiq by #{theirs}" : "could no longer be observed"
        @config.logger.warn("sidekiq_lifecycle: #{signal} #{what}; repaired")
      end
    end

    # A job enters the application's code.
    #
    # @param job [Hash]
    # @param queue [String]
    def record_job_started(job, queue)
      @native.record_job_started(job["jid"].to_s, (job["wrapped"] || job["class"]).to_s, queue.to_s)
    end

    # A job has left the application's code.
    #
    # @param job [Hash]
    def record_job_finished(job)
      @native.record_job_finished(job["jid"].to_s)
      @last_job = monotonic
    end

    # @param busy [Integer] running jobs
    def record_heartbeat(busy)
      @native.record_task_protection(TaskProtection.held?)
      @native.record_heartbeat(busy)
      @last_job = monotonic if busy.positive? || @last_job.nil?
      FlightRecorder.catch_up { @drain.jobs }
      exit_if_idle
    end

    # @param why [String] what requests it
    # @return [void]
    # @raise [Error] if another program runs Sidekiq
    def drain_and_exit(why)
      raise Error, "this Sidekiq runs inside another program, and only that program can end it" if @embedded

      @native.stop_when_drained(why)
      Process.kill(:TSTP, Process.pid)
    end

    # Sidekiq may finish before the last processor's thread reports its own end. Whatever goes wrong here, the heartbeat
    # goes on, and the end is reported.
    def check_drained
      drained, over = @drain.check
      notify(:drained) if drained && @native.mark_drained
      @native.record_over if over
    rescue StandardError => e
      failed("work", e)
    end

    # Publishes the status in Redis.
    #
    # @param identity [String] Sidekiq's name for the process
    # @param last [Boolean] whether Sidekiq leaves Redis with this message
    def publish(identity, last: false)
      check_drained
      problem = @redis.publish(identity, status, interrupted: @drain.interrupted, lost: @drain.lost, last:)
      @native.set_problem("redis_status", problem)
      @native.stop_when_drained("fleet quiet --then-stop") if @redis.take_stop_request
      copy_jobs(identity)
    end

    # Copies the jobs in hand to Redis, if that is set, and puts back those of a process of the fleet that is dead.
    #
    # @param identity [String] Sidekiq's name for the process
    def copy_jobs(identity)
      return unless @copy

      @copy.sync(identity)
      @native.set_problem("job_copy", nil)
    rescue *SidekiqCompat.redis_errors => e
      # Sidekiq itself reports other errors at its next heartbeat.
      return unless SidekiqCompat.refusal?(e)

      @native.set_problem("job_copy", "Redis refuses the copy of the jobs in hand (#{Text.error(e)}), so they are " \
                                      "lost if this machine does not come back")
    rescue StandardError => e
      failed("recover_jobs", e)
    end

    # The process is about to go quiet.
    def hurry_copy = @copy&.hurry(@drain.launcher)

    # A heartbeat has reached Redis.
    #
    # @param identity [String] Sidekiq's name for the process
    def sync_with_redis(identity)
      publish(identity)
      recover_jobs
    end

    # @param exit_status [Integer, nil] nil: the program goes on
    # @param why [String, nil]
    def finish(exit_status, why)
      @native.record_exit(exit_status, why)
      notify(:stopped)
    end

    # Calls the application's listeners.
    #
    # @param event [Symbol] one of {EVENTS}
    def notify(event)
      report_problems
      @listeners.notify(event, -> { status }) { |error| failed("on(:#{event})", error) }
    end

    # Logs each problem that the core has found, once. A call of this shows that Ruby runs.
    def report_problems
      @native.take_stall_report&.then { |stall| warn_once(stall) }
      @native.problems.each { |problem| warn_once(problem.last) }
    end

    # The core has found a problem, or a request to stop once drained.
    def report_news
      report_problems
      check_drained
    end

    # Logs the state in which Sidekiq has started.
    def log_start
      now = status
      warnings = ", but see the warnings" if now.problems.any?
      state = now.ready? ? "ready" : now.state
      @config.logger.info("sidekiq_lifecycle #{VERSION}: #{state} (#{now.directory})#{warnings}")
      now.doubts.each { |doubt| @config.logger.info("sidekiq_lifecycle: #{doubt}") }
    end

    private

    # A job that is fetched just now is finished before the process exits.
    def exit_if_idle
      limit = @configuration.exit_when_idle
      return if limit.nil? || @embedded || monotonic - @last_job < limit || @native.state != "running"

      idle = Native.format_duration(limit)
      @config.logger.info("sidekiq_lifecycle: there was no job for #{idle}, so this process drains and exits")
      drain_and_exit("exit_when_idle")
    end

    # A probe may ask from now on, also while the application boots.
    def serve_http
      Native.serve_http(@configuration.http, @configuration.directory)
    rescue StandardError => e
      failed("HTTP", e)
    end

    def about
      options = SidekiqCompat.options(@config)
      tag = Text.readable(options[:tag]) if options[:tag]
      JSON.generate(sidekiq: ::Sidekiq::VERSION, ruby: RUBY_VERSION, tag:, embedded: @embedded,
                    concurrency: SidekiqCompat.concurrency(@config), timeout: options[:timeout],
                    stop_timeout: @configuration.stop_timeout)
    end

    # The core decides when there is something to log, and finds out whether Ruby's threads get to run by waking this
    # one. Waiting costs nothing.
    def start_reporter
      thread = Thread.new do
        loop do
          @native.wait_for_report
          SidekiqAdapter.handle(:core_reported)
        end
      end
      thread.name = "sidekiq_lifecycle"
    end

    def monotonic = Process.clock_gettime(Process::CLOCK_MONOTONIC)

    def failed(what, error)
      warn_once("#{what}: #{error.class}: #{error.message} (#{error.backtrace&.first})")
    end

    def warn_once(problem) = @once_logger.warn(@config.logger, problem)
  end
end
