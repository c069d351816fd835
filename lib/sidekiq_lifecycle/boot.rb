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

      # Whether the command `sidekiq` is booting the application now: `Sidekiq::CLI#run` is being called. Whoever has
      # only loaded `sidekiq/cli` (a web server, a rake task, a parent that preloads) is no Sidekiq.
      def underway? = running?("run") && !running?("launch")

      # @return [Boolean] Sidekiq has launched; its `:startup` is over
      def over? = running?("launch")

      # Begins, once in a process, when `Sidekiq::CLI#run` is being called.
      def hold
        return if @held_by == Process.pid

        @exits ||= at_exit { exit_as_pid1($!) }
        @held_by = Process.pid
        @stop = @quiet = @passed_on = false
        release_after_run
        take
        @watch = Thread.new { watch }
        @watch.name = "sidekiq_lifecycle boot"
        @watch.report_on_exception = false
        # While nobody waits for it, TERM goes to the application's own trap.
        Thread.pass until @watch.stop?
      end

      # Starts the relay, if the signal path needs one, or sends it away.
      #
      # @param configuration [Configuration]
      # @param timeout [Numeric, nil] Sidekiq's `-t`, in seconds, as far as it is known; {SidekiqAdapter} sets it later
      def relay(configuration, timeout = nil)
        return Native.stop_relay if configuration.signal_relay == :off

        command = NativeCommand.path
        Native.start_relay(command, timeout&.to_f) if command
      end

      # Ends the guard, in :startup.
      #
      # @return [Array(Boolean, Boolean)] whether TERM was to end the boot and has not, and whether TSTP came
      def release
        @run&.disable
        let_go
        # What it has begun it finishes; a trap of the application's own may take its time.
        @watch&.join(1)
        [@stop && !@passed_on, @quiet]
      end

      # Ends the guard.
      def let_go
        stop, quiet = Native.release_boot
        @stop ||= stop
        @quiet ||= quiet
        nil
      end

      private

      # Whether a method of Sidekiq::CLI is being called, on the main thread or on this one.
      def running?(name)
        return false unless defined?(::Sidekiq::CLI) && (method = sidekiqs(name))

        file = method.source_location.first
        frames.any? { |frame| frame.base_label == name && frame.path == file }
      end

      def frames = [Thread.main, Thread.current].uniq.flat_map { |thread| thread.backtrace_locations.to_a }

      # Sidekiq's own method, below whatever has been prepended.
      def sidekiqs(name)
        method = ::Sidekiq::CLI.instance_method(name)
        method = method.super_method until method.nil? || method.owner == ::Sidekiq::CLI
        method
      rescue NameError
        nil
      end

      # A run that ends without `:startup`, by an exception for instance, leaves the signals to whoever goes on. It may
      # have been called long before this; a trace of this one method sees its end all the same.
      def release_after_run
        @run = TracePoint.new(:return) do
          @run.disable
          @held_by = nil
          let_go
        end
        @run.enable(target: sidekiqs("run"))
      end

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
        Complaints.say("the application's trap raised #{Text.error(e)}")
        [SignalException, signal]
      rescue Exception => e # rubocop:disable Lint/RescueException
        [e]
      end
    end
  end
end
