# frozen_string_literal: true

module SidekiqLifecycle
  # Keeps Sidekiq's own signal traps in place. A job or a library that sets a trap later replaces Sidekiq's, and Sidekiq
  # would never receive that signal again.
  #
  # @api private
  class SignalTraps
    # The signals that quiet and stop Sidekiq.
    SIGNALS = %w[SIGTERM SIGINT SIGTSTP].freeze

    # Signals for which Ruby raises an exception that ends the process, unless the application traps them.
    FATAL = %w[SIGQUIT SIGUSR1 SIGUSR2].freeze

    # Reports to the relay which of {FATAL} the application traps. Call it once every `:startup` hook has run, because
    # hooks set traps as well.
    def self.report_to_relay
      return unless Native.relay_expected?

      trapped = FATAL.reject { |signal| %w[DEFAULT SYSTEM_DEFAULT].include?(current(signal)) }
      trapped.each { |signal| Native.report_trap_to_relay(signal) }
    end

    # Ruby returns the current trap only when another is set. It returns nil for a handler of native code.
    def self.current(signal)
      Native.keep_handler(signal)
      found = Signal.trap(signal, "IGNORE")
      Signal.trap(signal, found || "DEFAULT")
      found
    ensure
      Native.put_handler_back(signal)
    end
    private_class_method :current

    # @return [Boolean] whether Sidekiq has set a trap (`cli.rb`, `run`)
    def self.sidekiq?(trap)
      trap.is_a?(Proc) && trap.source_location&.first.to_s.end_with?("sidekiq/cli.rb")
    end

    # Remembers the traps as they are now.
    def initialize
      @ours = {}.compare_by_identity
      @sidekiqs = SIGNALS.to_h { |signal| [signal, read(signal)] }
    end

    # Puts Sidekiq's trap back. The trap that replaced it is called first, as Sidekiq itself calls the traps it finds.
    #
    # @return [String, nil] where the trap that replaced it was set; nil if it was not set in Ruby
    def restore(signal)
      sidekiqs = @sidekiqs.fetch(signal)
      return unless sidekiqs.respond_to?(:call)

      theirs = nil
      both = proc do
        SignalTraps.call_safely(theirs, signal)
        sidekiqs.call
      end
      theirs = Signal.trap(signal, both)
      if theirs.equal?(sidekiqs) || @ours.key?(theirs)
        Signal.trap(signal, theirs)
        return
      end
      @ours[both] = true
      describe(theirs)
    end

    # Calls a trap as Ruby would, with the signal's number if it takes an argument.
    def self.call(trap, signal)
      return unless trap.respond_to?(:call)
      return trap.call if trap.respond_to?(:arity) && trap.arity.zero?

      trap.call(Signal.list.fetch(signal.delete_prefix("SIG")))
    end

    # Calls a trap that is not Sidekiq's. Nothing that it raises may keep the signal from Sidekiq. Logging is impossible
    # in a trap.
    def self.call_safely(trap, signal)
      call(trap, signal)
    rescue Exception => e # rubocop:disable Lint/RescueException
      OnceLogger.print("a trap raised #{Text.error(e)}", $stdout)
    end

    private

    # Ruby returns the current trap only when another is set. A signal that arrives in between is not lost.
    def read(signal)
      found = nil
      early = false
      found = Signal.trap(signal) { found.respond_to?(:call) ? found.call : early = true }
      Signal.trap(signal, found || "DEFAULT")
      found.call if early && found.respond_to?(:call)
      found
    end

    def describe(trap)
      return trap.inspect unless trap.is_a?(Proc)

      trap.source_location&.join(":") || "native code"
    end
  end
end
