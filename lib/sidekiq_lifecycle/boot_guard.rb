# frozen_string_literal: true

require_relative "cli"
require_relative "once_logger"
require_relative "signal_traps"
require_relative "text"

module SidekiqLifecycle
  # Handles TERM and TSTP until Sidekiq has set its traps. Sidekiq boots the application first (`cli.rb`, `run`).
  #
  # Without it, TERM ends the process, as PID 1 with status 1, unless the application has a trap, which swallows TERM.
  # TSTP suspends the process, or is lost if the process is PID 1.
  #
  # @api private
  module BootGuard
    class << self
      # @return [Array<String>] inherited signal settings that had to be repaired, as sentences without an end
      attr_reader :repaired

      # Whether the command `sidekiq` is booting the application now: `Sidekiq::CLI#run` is running. A process that has
      # only loaded `sidekiq/cli` (a web server, a rake task, a parent that preloads) is not a Sidekiq.
      def underway? = running?("run") && !running?("launch")

      # @return [Boolean] Sidekiq has launched; its `:startup` is over
      def over? = running?("launch")

      # Installs the guard, once in a process, when `Sidekiq::CLI#run` is running.
      def install
        return if @held_by == Process.pid

        @exits ||= at_exit { exit_as_pid1($!) }
        @held_by = Process.pid
        @stop = @quiet = @passed_on = false
        release_after_run
        take_signals
        @thread = Thread.new { wait_for_stop }
        @thread.name = "sidekiq_lifecycle boot"
        @thread.report_on_exception = false
        # Until this thread waits for TERM, the application's own trap gets it.
        Thread.pass until @thread.stop?
      end

      # Starts the relay if the signal path needs one, or stops it if the configuration switches it off.
      #
      # @param configuration [Configuration]
      # @param timeout [Numeric, nil] Sidekiq's `-t` in seconds; nil: not known yet, {SidekiqAdapter} sets it later
      def configure_relay(configuration, timeout = nil)
        return Native.stop_relay if configuration.signal_relay == :off

        command = CLI.path
        Native.start_relay(command, timeout&.to_f) if command
      end

      # Removes the guard in `:startup`.
      #
      # @return [Array(Boolean, Boolean)] whether TERM has arrived and has not ended the boot, and whether TSTP has
      def finish
        @run&.disable
        release
        # The thread finishes what it has started. An application's own trap may take its time.
        @thread&.join(1)
        [@stop && !@passed_on, @quiet]
      end

      # Removes the guard.
      def release
        stop, quiet = Native.release_boot_guard
        @stop ||= stop
        @quiet ||= quiet
        nil
      end

      private

      # Whether a method of Sidekiq::CLI is running, on the main thread or on this one.
      def running?(name)
        return false unless defined?(::Sidekiq::CLI) && (method = cli_method(name))

        file = method.source_location.first
        frames.any? { |frame| frame.base_label == name && frame.path == file }
      end

      def frames = [Thread.main, Thread.current].uniq.flat_map { |thread| thread.backtrace_locations.to_a }

      # Sidekiq's own method, below every prepended one.
      def cli_method(name)
        method = ::Sidekiq::CLI.instance_method(name)
        method = method.super_method until method.nil? || method.owner == ::Sidekiq::CLI
        method
      rescue NameError
        nil
      end

      # If `run` ends without `:startup`, by an exception for instance, the rest of the program gets its signals back.
      # `run` may have been called long before this. A trace of this one method still sees it return.
      def release_after_run
        @run = TracePoint.new(:return) do
          @run.disable
          @held_by = nil
          release
        end
        @run.enable(target: cli_method("run"))
      end

      # Ignored signals are inherited from the parent process (`execve(2)`). Blocked signals are inherited as well. Ruby
      # unblocks them when it starts, but a native library may have blocked them again.
      def take_signals
        ignored = Native.ignored_signals.each { |signal| Signal.trap(signal, "DEFAULT") }
        Native.install_boot_guard
        blocked = Native.unblock_signals
        @repaired = ignored.map { |signal| "#{signal} was ignored" } + blocked.map { |signal| "#{signal} was blocked" }
      end

      def wait_for_stop
        while Native.boot_guarded?
          signal = Native.wait_for_stop
          return stop(signal) if signal
        end
      end

      # Ruby ends by sending the signal to itself. PID 1 ignores that (pid_namespaces(7)), and would exit with status 1.
      def exit_as_pid1(error)
        exit(128 + error.signo) if error.is_a?(SignalException) && Process.pid == 1
      end

      # Calls the application's own trap first. Then the process ends, as it would have by default.
      def stop(signal)
        handler = Signal.trap(signal, "DEFAULT")
        return pass_on(signal, handler) if SignalTraps.sidekiq?(handler)

        exception = exception_after(handler, signal)
        release
        Thread.main.raise(*exception)
      end

      # The boot is over. Sidekiq starts, and then stops.
      def pass_on(signal, handler)
        @passed_on = true
        Signal.trap(signal, handler)
        handler.call
      end

      # The exception that ends the process: the signal, unless the trap raises another (`exit 7`).
      def exception_after(handler, signal)
        SignalTraps.call(handler, signal)
        [SignalException, signal]
      rescue StandardError => e
        OnceLogger.print("the application's trap raised #{Text.error(e)}")
        [SignalException, signal]
      rescue Exception => e # rubocop:disable Lint/RescueException
        [e]
      end
    end
  end
end
