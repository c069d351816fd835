# frozen_string_literal: true

require "json"
require_relative "redis_status"
require_relative "drain_monitor"
require_relative "sidekiq_compat"
require_relative "status"
require_relative "text"
require_relative "signal_traps"

module SidekiqLifecycle
  # The calling process as a Sidekiq: the native core's record of it, its jobs, and what is reported about it. There is
  # none before the process has turned out to be a Sidekiq.
  #
  # @api private
  class WorkerProcess
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
      native.record_exit(exit_status, why, 0, []) if native&.ours? && native.state != "stopped"
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
      @native = Native::Process.register(configuration.directory, configuration.ready_file, about)
      @drain = DrainMonitor.new(config, @native)
      @redis = RedisStatus.new(config)
      @native.require_signal_path(configuration.require_signal_path)
      @native.set_problem("environment", configuration.environment_problem)
    end

    # @return [Boolean] whether it is the calling process, and not the parent of a child that a job has forked
    def ours? = @native.ours?

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

    # Observes signals, keeps Sidekiq's traps in place, and logs from now on what the core finds wrong by itself.
    def observe_signals
      @traps = SignalTraps.new
      @native.observe_signals
      start_reporter
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

    # Sidekiq may finish before the last processor's thread reports its own end. Whatever goes wrong here, the heartbeat
    # goes on, and the end is reported.
    def check_drained
      notify(:drained) if @drain.drained? && @native.mark_drained
    rescue StandardError => e
      failed("work", e)
    end

    # Publishes the status in Redis.
    #
    # @param identity [String] Sidekiq's name for the process
    def publish(identity)
      check_drained
      @native.set_problem("redis_status", @redis.publish(identity, status, **@drain.counts))
    end

    # @param exit_status [Integer, nil] nil: the program goes on
    # @param why [String, nil]
    def finish(exit_status, why)
      @native.record_exit(exit_status, why, @drain.interrupted, @drain.lost_jobs)
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

    # Logs the state in which Sidekiq has started.
    def log_start
      now = status
      warnings = ", but see the warnings" if now.problems.any?
      state = now.ready? ? "ready" : now.state
      @config.logger.info("sidekiq_lifecycle #{VERSION}: #{state} (#{now.directory})#{warnings}")
      now.doubts.each { |doubt| @config.logger.info("sidekiq_lifecycle: #{doubt}") }
    end

    private

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

    def failed(what, error)
      warn_once("#{what}: #{error.class}: #{error.message} (#{error.backtrace&.first})")
    end

    def warn_once(problem) = @once_logger.warn(@config.logger, problem)
  end
end
