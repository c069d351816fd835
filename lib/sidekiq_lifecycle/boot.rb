# frozen_string_literal: true

module SidekiqLifecycle
  # Answers for TERM and TSTP until Sidekiq has its traps (`cli.rb`, `run`: the application is booted first).
  #
  # Before, TERM ended the process, unless the application had set a trap of its own, which swallowed it; as PID 1 it
  # ended with status 1. TSTP stopped the process (or, as PID 1, was lost).
  #
  # @api private
  module Boot
    @asked = [false, false]

    class << self
      # @return [Array<String>] what was inherited and had to be repaired, in words
      attr_reader :repaired

      # Begins, once, on the main thread of a process that is going to be a Sidekiq.
      def hold
        return if @held

        @held = true
        @repaired = repair
        Native.hold_boot
        Process.singleton_class.prepend(ForkWatch)
        @watch = Thread.new { watch }
        @watch.name = "sidekiq_lifecycle boot"
        @watch.report_on_exception = false
      end

      # Ends the guard.
      #
      # @return [Array(Boolean, Boolean)] whether TERM came meanwhile, and whether TSTP did
      def release
        stop, quiet = Native.release_boot
        @asked = [@asked[0] || stop, @asked[1] || quiet]
      end

      private

      # Whoever launched us may have had signals blocked or ignored, and both are inherited (`execve(2)`).
      def repair
        ignored = Native.ignored.each { |signal| Signal.trap(signal, "DEFAULT") }
        blocked = Native.unblock
        ignored.map { |signal| "#{signal} was ignored" } + blocked.map { |signal| "#{signal} was blocked" }
      end

      def watch
        while Native.guarding?
          signal = Native.wait_for_stop
          return stop(signal) if signal
        end
      end

      # The application's own trap has its say, and then the process ends all the same, as it would have by default.
      def stop(signal)
        handler = Signal.trap(signal, "DEFAULT")
        if Traps.sidekiqs?(handler)
          Signal.trap(signal, handler)
          return handler.call
        end
        call(handler, Signal.list.fetch(signal.delete_prefix("SIG")))
        release
        Thread.main.raise(SignalException, signal)
      end

      def call(handler, number)
        return unless handler.respond_to?(:call)

        handler.arity.zero? ? handler.call : handler.call(number)
      rescue SystemExit => e
        Thread.main.raise(e)
      rescue StandardError => e
        warn "sidekiq_lifecycle: the application's trap raised #{e.class}: #{e.message}"
      end
    end

    # A process that forks while it boots preloads the application for its children (sidekiqswarm does). It has its
    # own ways with signals, and it is no Sidekiq.
    module ForkWatch
      # Ruby's own place to notice forks (Process._fork, since 3.1).
      def _fork
        child = super
        Boot.release if child.positive?
        child
      end
    end
  end
end
