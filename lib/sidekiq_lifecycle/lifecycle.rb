# frozen_string_literal: true

require "json"
require_relative "complaints"
require_relative "majors"
require_relative "redis_timeouts"
require_relative "systemd"
require_relative "task_protection"
require_relative "trial"
require_relative "vigil"
require_relative "work"

module SidekiqLifecycle
  # The life of this process: Sidekiq's events and {Taps} on one side, the core on the other.
  #
  # What the core needs is told it at once; everything else waits. No hook talks to the network, and none raises into
  # Sidekiq ({#hear}).
  #
  # @api private
  class Lifecycle
    include Vigil

    # Sidekiq's events that are listened to. The rest of its life is heard in {Taps}.
    HOOKS = {
      startup: -> { SidekiqLifecycle.hear(:startup) },
      quiet: -> { SidekiqLifecycle.hear(:quiet) },
      shutdown: -> { SidekiqLifecycle.hear(:shutdown) },
      beat: -> { SidekiqLifecycle.hear(:reached_redis) } # not in 6.4
    }.freeze

    # Seconds after which a heartbeat that has waited for Redis gives another sign of life at its end.
    LONG_BEAT = 1

    # These are Sidekiq's words for an error that got past its retries: the job is in nobody's hands any more
    # (`processor.rb`, `process`). 6.x gives two arguments.
    ERRORS = lambda do |error, context, _config = nil|
      SidekiqLifecycle.hear(:job_lost, error, context[:job]) if context[:context] == "Internal exception!"
    end

    # @return [Configuration]
    attr_reader :configuration

    def initialize(configuration)
      @configuration = configuration
      @listeners = Hash.new { |listeners, event| listeners[event] = [] }
      @complaints = Complaints.new
      @installed_by = Process.pid
    end

    # Begins, or begins again where the configuration has changed. Unless the command `sidekiq` is booting, nobody
    # knows yet whether this process will be a Sidekiq (embedded, preloaded) or never (a web server, a rake task): then
    # it begins with `Sidekiq::CLI#run`, or with `:startup`.
    def begin(config)
      @config = config
      settings = [configuration.directory, configuration.ready_file]
      return again if ours? && settings == @settings
      return complain(too_late) if too_late

      @settings = settings
      listen(config)
      boot if Boot.underway?
    rescue StandardError => e
      complain("#{e.class}: #{e.message} (#{e.backtrace&.first})")
    end

    # Runs a hook. Nothing it raises reaches Sidekiq, but for an exception by which the process is to end.
    def hear(event, *details)
      return unless mine?(event)
      return send(event, *details) unless Work::EVENTS.include?(event)

      @work.public_send(event, *details).tap { report_problems }
    rescue StandardError => e
      failed(event, e)
    end

    # @return [Status]
    def status
      Status.new(JSON.parse(@native.report), configuration, busy: @native.drained? ? 0 : busy)
    end

    # @return [void]
    def on(event, listener) = @listeners[event] << listener

    # The process is ending, by whatever way: the backstop for every path on which Sidekiq fires no event.
    def exiting(error)
      return if !ours? || @native.state == "stopped"

      look_whether_drained
      exit_status, why = Ending.of(error)
      losses = @work.losses
      @native.ended(exit_status, why, losses.counts[:cut_off], losses.lost_jobs)
      tell(:stopped)
    end

    # @return [Boolean] the object speaks of the calling process
    def ours? = @native&.ours? || false

    private

    # Installed once more: something else may have changed.
    def again
      Boot.relay(configuration, options[:timeout]) if server?
      describe
    end

    # Why nothing can be begun any more.
    def too_late
      return "install cannot set another directory or ready_file now: Sidekiq has started" if @launcher

      "install came too late: Sidekiq has started, and goes on without it" if Boot.over?
    end

    # A process turns out to be a Sidekiq in one of these. A child that a job forked never comes here.
    def mine?(event)
      return true if ours? || %i[boot embedded].include?(event)
      return false unless event == :startup

      register
      true
    end

    # The command `sidekiq` boots.
    def boot
      Boot.hold
      # What takes its signals from a program around it (embedded) has no signal path of its own, and needs no relay.
      Boot.relay(configuration, options[:timeout])
      @native.retire if ours?
      register
    end

    # Sidekiq starts inside a program.
    def embedded = @embedded = true

    def register
      @native = Native::Process.begin(configuration.directory, configuration.ready_file, about)
      @work = Work.new(@config, @native)
      @native.require_signal_path(configuration.require_signal_path)
      @native.note("environment", configuration.environment_problem)
      # The program around an embedded Sidekiq, or the parent of preloaded ones, is the one that systemd knows.
      Systemd.begin(@native) if server? && Process.pid == @installed_by
      report_problems
    end

    def listen(config)
      Taps.install
      config.error_handlers << ERRORS unless config.error_handlers.include?(ERRORS)
      events = options[:lifecycle_events]
      HOOKS.slice(*events.keys).each { |event, hook| config.on(event, &hook) unless events[event].include?(hook) }
    end

    # ---- what Sidekiq does ----

    def startup
      stop, @quiet_asked = Boot.release
      Boot.repaired&.each { |repair| complain("#{repair} in this process when it was launched; repaired") }
      # The application, or a library, rescued the exception by which TERM was to end the boot. Nothing has started.
      raise SignalException, "SIGTERM" if stop

      @native.quieted if @quiet_asked
      describe
      TaskProtection.begin(configuration, method(:busy)) { |problem| @native.note("ecs_task_protection", problem) }
      return unless server?

      @traps = Traps.new
      @native.observe
      listen_to_core
    end

    # What came to Sidekiq's traps before the observer was there waits in their pipe, and is left there for Sidekiq.
    def launching(pipe)
      waiting = pipe.read_nonblock(4096, exception: false)
      return unless waiting.is_a?(String)

      pipe.ungetbyte(waiting)
      (waiting.split.map { |name| "SIG#{name}" } & Traps::SIGNALS).each { |signal| @native.arrived(signal) }
    end

    def started(launcher)
      @launcher = @work.launcher = launcher
      Traps.tell_relay
      @native.note("redis_timeouts", RedisTimeouts.problem(@config, Systemd.watchdog))
      @native.started
      report_problems
      now = status
      said = "#{now.ready? ? "ready" : now.state} (#{now.directory})#{", but see the warnings" if now.problems.any?}"
      @config.logger.info("sidekiq_lifecycle #{VERSION}: #{said}")
      now.doubts.each { |doubt| @config.logger.info("sidekiq_lifecycle: #{doubt}") }
      # It may have been told to stop meanwhile; it was running all the same.
      tell(:running) if now.timings.key?(:running)
      # Sidekiq had no trap yet when it was told to be quiet.
      Process.kill(:TSTP, Process.pid) if @quiet_asked
    end

    # Sidekiq's :quiet.
    def quiet
      @native.quieted
      @native.draining(busy)
      tell(:quiet)
      quieted if Majors.capsules?
    end

    # Fetching and scheduling have ended.
    def quieted
      @work.fetching_ended
      look_whether_drained
    end

    # Sidekiq's :shutdown. In 6.x it is fired after the scheduler's thread has ended, in 7+ after :quiet.
    def shutdown
      @native.stopping
      tell(:stopping)
      quieted
      Trial.take_time(options[:timeout])
    end

    # A job in hand is always known to its processor, but for one that is being fetched, and goes back to the queue at
    # once if the process was quieted meanwhile. Where that fails, it is lost.
    def processor_ends(processor, error = nil)
      hear(:job_lost, error) if error && processor.job.nil?
    end

    def processor_ended(manager)
      return unless manager.stopped?

      @native.draining(busy)
      report_problems
      look_whether_drained
    end

    def beat
      look_whether_drained
      @native.beat(busy)
      Native.displaced.each { |signal| restore(signal) } if @traps
      report_problems
    end

    # Sidekiq's :beat, which it fires once its heartbeat has reached Redis.
    def reached_redis = announcement.reached!

    # Sidekiq has told Redis of itself, on its heartbeat's thread, or it has tried. After a try that failed ours would
    # only wait as well, and delay the next beat.
    def beaten(identity, result, took)
      beat if took > LONG_BEAT
      last_word(identity) if announcement.reached?(result)
    end

    # The next beat may be too late.
    def last_word(identity)
      look_whether_drained
      @native.note("redis_status", announcement.publish(identity, status, **@work.losses.counts))
    end

    def announcement = @announcement ||= Announcement.new(@config)

    # Sidekiq has ended inside a program that goes on.
    def ended
      @native.ended(nil, nil, 0, [])
      tell(:stopped)
      Unfailing.over
    end

    # ---- and what follows from it ----

    # Sidekiq may go on to its end before the last processor's thread has come to tell of its own. Whatever goes wrong
    # with this, the heart beats, and the end is told.
    def look_whether_drained
      tell(:drained) if @work.finished? && @native.drained
    rescue StandardError => e
      failed("work", e)
    end

    def tell(event)
      report_problems
      return unless @listeners.key?(event)

      now = status
      @listeners[event].each do |listener|
        listener.call(now)
      rescue StandardError, ScriptError => e
        failed("on(:#{event})", e)
      end
    end

    # Whether the command `sidekiq` runs it, and not a program around it.
    def server? = defined?(::Sidekiq::CLI) && !@embedded ? true : false

    def busy = Majors.busy

    def describe
      @native.describe(about)
      @native.require_signal_path(configuration.require_signal_path)
    end

    def options = Majors.options(@config)

    def about
      tag = Text.readable(options[:tag]) if options[:tag]
      JSON.generate(sidekiq: ::Sidekiq::VERSION, ruby: RUBY_VERSION, tag:, concurrency: Majors.concurrency(@config),
                    embedded: !server?, timeout: options[:timeout], stop_timeout: configuration.stop_timeout)
    end

    # What the core has found wrong, each once. Whoever comes here shows that Ruby runs.
    def report_problems
      @native.runs&.then { |silence| complain(silence) }
      @native.problems.each { |_code, message| complain(message) }
    end

    def failed(what, error)
      complain("#{what}: #{error.class}: #{error.message} (#{error.backtrace&.first})")
    end

    def complain(problem) = @complaints.make(@config.logger, problem)
  end
end
