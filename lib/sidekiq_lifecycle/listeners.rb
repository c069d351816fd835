# frozen_string_literal: true

module SidekiqLifecycle
  # The application's blocks for {SidekiqLifecycle.on}.
  #
  # @api private
  class Listeners
    def initialize
      @listeners = Hash.new { |listeners, event| listeners[event] = [] }
    end

    # @param event [Symbol] one of {EVENTS}
    # @param listener [Proc]
    # @return [void]
    def add(event, listener) = @listeners[event] << listener

    # Calls every listener of an event.
    #
    # @param event [Symbol]
    # @param status [#call] makes the {Status} that they get; called only if there is a listener
    # @yieldparam error [Exception] what a listener raised
    # @return [void]
    def notify(event, status)
      return unless @listeners.key?(event)

      now = status.call
      @listeners[event].each do |listener|
        listener.call(now)
      rescue StandardError, ScriptError => e
        yield e
      end
    end
  end
end
