# frozen_string_literal: true

require_relative "boot_guard"
require_relative "once_logger"
require_relative "exit_reason"
require_relative "redis_timeouts"
require_relative "sidekiq_compat"
require_relative "sidekiq_patches"
require_relative "systemd"
require_relative "task_protection"
require_relative "signal_traps"
require_relative "trial"
require_relative "safe_logger"
require_relative "worker_process"

module SidekiqLifecycle
  # Translates what happens in Sidekiq to the native core, which owns the state, the files and the signals. What differs
  # between versions of Sidekiq is in {SidekiqCompat}; when a process is drained, in {DrainTracker}.
  #
  # The core gets each event at once, everything else waits. No handler uses the network, and none raises into Sidekiq
  # ({#handle}).
  #
  # @api private
  class SidekiqAdapter
    # Everything that is handled here, in the order of a process's life. The handler of `:beat` is {#on_beat}.
    # "hook" marks Sidekiq's own events ({HOOKS}, {ERROR_HANDLER}), "core" what the native core reports.
    # {SidekiqPatches} reports the rest.
    EVENTS = [
      :cli_run,                 # Sidekiq::CLI#run is called: the command `sidekiq` boots
      :embedded_run,            # Sidekiq::Embedded#run is called: Sidekiq starts inside another program
      :startup,                 # hook; Sidekiq's traps are set, no thread exists yet
      :cli_launch,              # Sidekiq is about to read its signals
      :launched,                # every :startup hook has returned, the threads run
      :beat,                    # a heartbeat begins
      :redis_reached,           # hook :beat, 6.5.2 and later; the heartbeat has reached Redis
      :beat_finished,           # the heartbeat is over, whether or not it reached Redis
      :core_reported,           # core; there is something to log
      :job_started,             # a job enters the application's code
      :job_finished,            # and leaves it
      :job_error,               # hook; an error got past a job's retries
      :quiet_or_stop_requested, # by a signal or a call; Sidekiq has not logged it yet
      :hooks_started,           # the hooks of :quiet, :shutdown, :exit or at_exit start
      :hooks_finished,          # and have returned
      :quiet,                   # hook
      :scheduler_died,          # Sidekiq has found its scheduler's thread dead
      :fetching_ended,          # the fetch and the scheduler have ended
      :shutdown,                # hook
      :processor_ending,        # a processor has finished its last job
      :processor_ended,         # its manager knows
      :jobs_interrupted,        # Sidekiq's shutdown timeout has passed with running jobs
      :push_back,               # they are to be pushed back to Redis
      :heartbeat_cleared,       # Sidekiq has left Redis
      :embedded_stopped         # Sidekiq has ended inside a program that goes on
    ].freeze

    # The handler of each. Two events belong to every job, so no name is put together then.
    HANDLERS = EVENTS.to_h { |event| [event, :"on_#{event}"] }.freeze

    # Sidekiq's events as hooks. Constants, so that installing again adds none twice.
    HOOKS = {
      startup: -> { SidekiqAdapter.handle(:startup) },
      quiet: -> { SidekiqAdapter.handle(:quiet) },
      shutdown: -> { SidekiqAdapter.handle(:shutdown) },
      beat: -> { SidekiqAdapter.handle(:redis_reached) }
    }.freeze

    # These are Sidekiq's words for an error that got past a job's retries: no thread has the job any more
    # (`processor.rb`, `process`).
    ERROR_HANDLER = SidekiqCompat.error_handler do |error, context|
      SidekiqAdapter.handle(:job_error, error, context[:job]) if context[:context] == "Internal exception!"
    end

    # A heartbeat that waited longer than this many seconds for Redis counts twice: its end is another sign of life.
    LONG_BEAT = 1

    # Seconds that Sidekiq leaves interrupted jobs to end (`manager.rb`, `hard_shutdown`).
    CLEANUP = 3

    class << self
      # @return [SidekiqAdapter, nil] nil before `install`
      attr_reader :current

      # @param config [Object] see {SidekiqLifecycle.install}
      # @param configuration [Configuration]
      # @param listeners [Listeners]
      def install(config, configuration, listeners)
        unless @current
          @current = new(configuration, listeners)
          at_exit { @current.handle_exit($!) }
        end
        @current.install(config)
      end

      # Guards the boot of an application that has not called `install` yet, if a Sidekiq boots it. The directory is the
      # one known by now; `install` clears another.
      def guard_boot
        return unless BootGuard.underway?

        BootGuard.install
        configuration = Configuration.new
        BootGuard.configure_relay(configuration)
        WorkerProcess.prepare(configuration)
      rescue StandardError => e
        OnceLogger.print(e.message)
      end

      # Handles an event of {EVENTS}, if the lifecycle is installed.
      def handle(event, *details) = @current&.handle(event, *details)
    end

    def initialize(configuration, listeners)
      @configuration = configuration
      @listeners = listeners
      @once_logger = OnceLogger.new
      @installed_by = Process.pid
    end

    # Installs the hooks, and starts if the command `sidekiq` is booting. Otherwise it is not known yet whether this
    # process will be a Sidekiq (embedded, preloaded) or not (a web server, a rake task). Then it starts with `:cli_run`
    # or `:startup`. Called again, it applies changed settings.
    def install(config)
      @config = config
      settings = [@configuration.directory, @configuration.ready_file]
      return reinstall if ours? && settings == @settings
      return warn_once(too_late) if too_late

      @settings = settings
      add_hooks(config)
      on_cli_run if BootGuard.underway?
    rescue StandardError => e
      warn_once("#{e.class}: #{e.message} (#{e.backtrace&.first})")
    end

    # Calls the handler of an event. Nothing that it raises reaches Sidekiq, except for an exception that is meant to
    # end the process.
    def handle(event, *details)
      send(HANDLERS.fetch(event), *details) if mine?(event)
    rescue StandardError => e
      warn_once("#{event}: #{e.class}: #{e.message} (#{e.backtrace&.first})")
    end

    # The process exits, on whatever path: also where Sidekiq fires no event, and where a signal has ended the boot
    # between the process's registration and our knowing of it.
    def handle_exit(error)
      return WorkerProcess.finish_unknown(*ExitReason.of(error)) unless @process
      return if !ours? || native.state == "stopped"

      @process.check_drained
      @process.finish(*ExitReason.of(error))
    rescue StandardError => e
      OnceLogger.print(e.message)
    end

    # @return [Status]
    def status = @process.status

    # @param why [String] what requests it
    # @return [void]
    # @raise [Error] if another program runs Sidekiq
    def drain_and_exit(why) = @process.drain_and_exit(why)

    # @return [Boolean] whether the calling process is a Sidekiq, and not a child that a job has forked
    def ours? = @process&.ours? || false

    private

    # ---- it boots ----

    def on_cli_run
      BootGuard.install
      # What takes its signals from a host program (embedded) has no signal path of its own, and needs no relay.
      BootGuard.configure_relay(@configuration, options[:timeout])
      native.retire if ours?
      register
    end

    def on_embedded_run = @embedded = true

    def on_startup
      stop, @quiet_requested = BootGuard.finish
      BootGuard.repaired&.each { |repair| warn_once("#{repair} in this process when it was launched; repaired") }
      # The application, or a library, rescued the exception by which TERM was to end the boot. Nothing has started.
      raise SignalException, "SIGTERM" if stop

      native.record_quiet if @quiet_requested
      @process.describe(@config)
      TaskProtection.start(@configuration, SidekiqCompat.method(:busy)) do |problem|
        native.set_problem("ecs_task_protection", problem)
      end
      @process.prepare_for_jobs(observe: server?)
    end

    # Signals that reached Sidekiq's traps before the core observed them are still in their pipe, and stay there for
    # Sidekiq.
    def on_cli_launch(pipe)
      waiting = pipe.read_nonblock(4096, exception: false)
      return unless waiting.is_a?(String)

      pipe.ungetbyte(waiting)
      (waiting.split.map { |name| "SIG#{name}" } & SignalTraps::SIGNALS).each { |signal| native.record_signal(signal) }
    end

    def on_launched(launcher)
      drain.launcher = launcher
      @has_launched = true
      SignalTraps.report_to_relay
      native.set_problem("redis_timeouts", RedisTimeouts.problem(@config, Systemd.watchdog))
      native.record_started
      @process.report_problems
      @process.log_start
      # A stop may have been requested in the meantime. The process was running all the same.
      @process.notify(:running) if status.timings.key?(:running)
      # Sidekiq had no trap yet when TSTP arrived.
      Process.kill(:TSTP, Process.pid) if @quiet_requested
    end

    # ---- it runs ----

    def on_beat
      @process.check_drained
      @process.record_heartbeat(SidekiqCompat.busy)
      @process.restore_traps
      @process.report_problems
    end

    def on_redis_reached = @process.redis.record_beat

    # After a heartbeat that did not reach Redis, our own message would only wait as well, and delay the next heartbeat.
    def on_beat_finished(identity, result, took)
      on_beat if took > LONG_BEAT
      @process.sync_with_redis(identity) if @process.redis.beat_reached?(result)
    end

    def on_core_reported = @process.report_news

    # If one job holds the GVL, the core can name the running jobs.
    def on_job_started(job, queue) = @process.record_job_started(job, queue)

    def on_job_finished(job) = @process.record_job_finished(job)

    def on_job_error(error, job)
      drain.record_lost(error, job)
      @process.report_problems
    end

    # ---- it quiets and stops ----

    # Nothing that Sidekiq logs from here on may keep it from stopping.
    def on_quiet_or_stop_requested
      native.replace_dead_outputs
      SafeLogger.protect(@config.logger)
      @process.hurry_copy
    end

    # From 7.0.0 on the hooks at `:shutdown` may take the jobs' time as well.
    def on_hooks_started(event)
      beside = event == :shutdown && SidekiqCompat.capsules? ? options[:timeout] + CLEANUP : 0
      native.record_hooks_started(event == :at_exit ? "at_exit" : ":#{event}", beside.to_f)
    end

    def on_hooks_finished
      native.record_hooks_finished
      @process.report_problems
    end

    def on_quiet
      native.record_quiet
      native.record_busy(SidekiqCompat.busy)
      @process.notify(:quiet)
      on_fetching_ended if SidekiqCompat.capsules?
    end

    def on_scheduler_died(error) = drain.record_scheduler_died(error).tap { @process.report_problems }

    def on_fetching_ended
      drain.record_fetching_ended
      @process.check_drained
    end

    # 6.x fires `:shutdown` after the scheduler's thread has ended, 7.0.0 and later after `:quiet`.
    def on_shutdown
      native.record_stopping
      @process.notify(:stopping)
      on_fetching_ended
      Trial.take_time(options[:timeout])
    end

    # A processor always knows its job, unless it is just fetching one. If the process was quieted in the meantime, that
    # job goes back to its queue at once. If this fails, the job is lost.
    def on_processor_ending(processor, error = nil)
      on_job_error(error, nil) if error && processor.job.nil?
    end

    def on_processor_ended(manager)
      return unless manager.stopped?

      native.record_busy(SidekiqCompat.busy)
      @process.report_problems
      @process.check_drained
    end

    def on_jobs_interrupted(manager)
      drain.record_interrupted(manager, options[:timeout])
      @process.report_problems
    end

    def on_push_back(jobs) = drain.push_back(jobs).tap { @process.report_problems }

    # The next heartbeat may be too late.
    def on_heartbeat_cleared(identity) = @process.publish(identity, last: true)

    def on_embedded_stopped
      @process.finish(nil, nil)
      SafeLogger.release
    end

    # ---- registration ----

    # A process turns out to be a Sidekiq at one of these events. A child that a job has forked never reaches them.
    def mine?(event)
      return true if ours? || %i[cli_run embedded_run].include?(event)
      return false unless event == :startup

      register
      true
    end

    def register
      @process = WorkerProcess.new(@config, @configuration, @listeners, @once_logger, embedded: !server?)
      # systemd knows the host program of an embedded Sidekiq, and the parent of preloaded ones.
      Systemd.start(native) if server? && Process.pid == @installed_by
      @process.report_problems
    end

    def reinstall
      BootGuard.configure_relay(@configuration, options[:timeout]) if server?
      @process.describe(@config)
    end

    # @return [String, nil] why it is too late to start
    def too_late
      return "install cannot set another directory or ready_file now: Sidekiq has started" if @has_launched

      "install came too late: Sidekiq has started; call it in Sidekiq.configure_server" if BootGuard.over?
    end

    def add_hooks(config)
      SidekiqPatches.install
      config.error_handlers << ERROR_HANDLER unless config.error_handlers.include?(ERROR_HANDLER)
      events = SidekiqCompat.lifecycle_events(config)
      HOOKS.slice(*events.keys).each { |event, hook| config.on(event, &hook) unless events[event].include?(hook) }
    end

    # Whether the command `sidekiq` runs it, and not a host program.
    def server? = defined?(::Sidekiq::CLI) && !@embedded ? true : false

    def options = SidekiqCompat.options(@config)

    def native = @process.native

    def drain = @process.drain

    def warn_once(problem) = @once_logger.warn(@config.logger, problem)
  end
end
