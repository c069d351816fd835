# frozen_string_literal: true

module SidekiqLifecycle
  # Answers for TERM and TSTP until Sidekiq has its traps (`cli.rb`, `run`: the application is booted first).
  #
  # Before, TERM ended the process, unless the application had set a trap of its own, which swallowed it; as PID 1 it
  # ended with status 1. TSTP stopped the process (or, as PID 1, was lost).
  #
  # @api private
  module Boot
    class << self
      # @return [Array<String>] what was inherited and had to be repaired, in words
      attr_reader :repaired

      # Begins, once, on the main thread of a process that is going to be a Sidekiq.
      def hold
        return if @held

        @held = true
        take
        at_exit { exit_as_pid1($!) }
        Process.singleton_class.prepend(ForkWatch)
        @watch = Thread.new { watch }
        @watch.name = "sidekiq_lifecycle boot"
        @watch.report_on_exception = false
        # While nobody waits for it, TERM goes to the application's own trap.
        Thread.pass until @watch.stop?
      end

      # Starts the relay, if the signal path needs one, or sends it away.
      #
      # @param configuration [Configuration]
      # @param timeout [Numeric, nil] Sidekiq's `-t`, in seconds
      def relay(configuration, timeout)
        return Native.stop_relay if configuration.signal_relay == :off

        command = NativeCommand.path
        Native.start_relay(command, timeout&.to_f) if command
      end

      # Ends the guard, in :startup.
      #
      # @return [Array(Boolean, Boolean)] whether TERM was to end the boot and has not, and whether TSTP came
      def release
        let_go
        # What it has begun it finishes; a trap of the application's own may take its time.
        @watch&.join(1)
        [@stop && !@passed_on, @quiet]
      end

      # @return [Boolean] the process, or the one that it was forked from, has forked while it booted
      def forked? = @forked || false

      # The process is about to fork.
      def forking
        @forked ||= Native.guarding?
        let_go
      end

      # Ends the guard.
      def let_go
        stop, quiet = Native.release_boot
        @stop ||= stop
        @quiet ||= quiet
        nil
      end

      private

      # Whoever launched us may have had signals ignored, which is inherited (`execve(2)`). Blocked ones are inherited
      # as well; Ruby unblocks them when it starts, but a native library may have blocked them again.
      def take
        ignored = Native.ignored.each { |signal| Signal.trap(signal, "DEFAULT") }
        Native.hold_boot
        blocked = Native.unblock
        @repaired = ignored.map { |signal| "#{signal} was ignored" } + blocked.map { |signal| "#{signal} was blocked" }
      end

      def watch
        while Native.guarding?
          signal = Native.wait_for_stop
          return stop(signal) if signal
        end
      end

      # Ruby ends by the signal that it was ended by, which does nothing to PID 1 (pid_namespaces(7)); the status would
      # be 1.
      def exit_as_pid1(error)
        exit(128 + error.signo) if error.is_a?(SignalException) && Process.pid == 1
      end

      # The application's own trap has its say, and then the process ends all the same, as it would have by default.
      def stop(signal)
        handler = Signal.trap(signal, "DEFAULT")
        return pass_on(signal, handler) if Traps.sidekiqs?(handler)

        ending = ending_by(handler, signal)
        let_go
        Thread.main.raise(*ending)
      end

      # The boot is over; Sidekiq starts, and then stops.
      def pass_on(signal, handler)
        @passed_on = true
        Signal.trap(signal, handler)
        handler.call
      end

      # What the process ends by: the signal, unless the trap ends it in another way (`exit 7`).
      def ending_by(handler, signal)
        Traps.call(handler, signal)
        [SignalException, signal]
      rescue StandardError => e
        warn "sidekiq_lifecycle: the application's trap raised #{e.class}: #{e.message}"
        [SignalException, signal]
      rescue Exception => e # rubocop:disable Lint/RescueException
        [e]
      end
    end

    # A process that forks while it boots preloads the application for its children (sidekiqswarm does). It has its
    # own ways with signals, and it is no Sidekiq.
    module ForkWatch
      # Ruby's own place to notice forks (Process._fork, since 3.1).
      def _fork
        Boot.forking
        super
      end
    end
  end
end
