# frozen_string_literal: true

module SidekiqLifecycle
  # Keeps Sidekiq's own signal traps in place. A job or a library that traps a signal later takes it away from
  # Sidekiq, which then never hears it.
  #
  # @api private
  class Traps
    # The signals by which Sidekiq is quieted and stopped.
    SIGNALS = %w[SIGTERM SIGINT SIGTSTP].freeze

    # Signals at which Ruby raises an exception that ends the process, unless the application traps them.
    FATAL = %w[SIGQUIT SIGUSR1 SIGUSR2].freeze

    # Tells the relay which of {FATAL} the application has traps of its own for. Call it once every `:startup` hook has
    # run, for those set traps as well.
    def self.tell_relay
      return unless Native.relay?

      FATAL.each { |signal| Native.trapped(signal) unless %w[DEFAULT SYSTEM_DEFAULT].include?(peek(signal)) }
    end

    # Ruby tells which trap is set only when another is. What native code has set Ruby does not know (nil).
    def self.peek(signal)
      Native.keep_handler(signal)
      found = Signal.trap(signal, "IGNORE")
      Signal.trap(signal, found || "DEFAULT")
      found
    ensure
      Native.put_handler_back(signal)
    end
    private_class_method :peek

    # @return [Boolean] whether a trap is one that Sidekiq has set (`cli.rb`, `run`)
    def self.sidekiqs?(trap)
      trap.is_a?(Proc) && trap.source_location&.first.to_s.end_with?("sidekiq/cli.rb")
    end

    # Remembers the traps as they are now.
    def initialize
      @ours = {}.compare_by_identity
      @sidekiqs = SIGNALS.to_h { |signal| [signal, current(signal)] }
    end

    # Puts Sidekiq's trap back. Whoever replaced it is called first, as Sidekiq itself calls the traps it finds.
    #
    # @return [String, nil] who had replaced it, in words; nil if it was not Ruby code
    def restore(signal)
      sidekiqs = @sidekiqs.fetch(signal)
      return unless sidekiqs.respond_to?(:call)

      theirs = nil
      both = proc do
        Traps.call_safely(theirs, signal)
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

    # Runs a trap as Ruby would, with the signal's number if it wants that.
    def self.call(trap, signal)
      return unless trap.respond_to?(:call)
      return trap.call if trap.respond_to?(:arity) && trap.arity.zero?

      trap.call(Signal.list.fetch(signal.delete_prefix("SIG")))
    end

    # Runs another's trap. Nothing it raises may keep the signal from Sidekiq; a trap has no logger.
    def self.call_safely(trap, signal)
      call(trap, signal)
    rescue Exception => e # rubocop:disable Lint/RescueException
      Complaints.say("a trap raised #{Text.error(e)}", $stdout)
    end

    private

    # Ruby tells which trap is set only when another is. A signal that comes in between is not lost.
    def current(signal)
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
