# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # What can be asked of a process without waiting for the answer, and of which process. It knows neither Redis nor a
    # clock.
    #
    # @api private
    module Request
      # The signals by request. What drains and stops is quieted, and told to stop by itself once it has drained. What
      # is restarted is stopped; its supervisor starts it anew.
      SIGNALS = { "quiet" => "TSTP", "drain_and_stop" => "TSTP", "restart" => "TERM" }.freeze

      module_function

      # @param request [String] one of {SIGNALS}
      # @param process [Process]
      # @return [String, nil] why it is not asked of the process; nil: it is
      def refusal(request, process)
        return "it is gone" if process.gone?
        return "it runs inside another program, which alone can quiet and stop it" if process.embedded?

        case request
        when "quiet" then quiet_refusal(process)
        when "drain_and_stop" then drain_refusal(process)
        when "restart" then restart_refusal(process)
        end
      end

      # @return [String, nil]
      def quiet_refusal(process) = ("it is quiet already" if process.quiet?)

      # @return [String, nil]
      def drain_refusal(process)
        return "it stops already" if process.state == :stopping
        return "it stops by itself already" if process.stops_when_drained?

        "it does not have sidekiq_lifecycle, which alone can do that" unless process.can_stop_when_drained?
      end

      # One look does not tell whether a process without this gem has drained.
      #
      # @return [String, nil]
      def restart_refusal(process)
        return "it is not quiet" unless process.quiet?
        return "it stops already" if process.state == :stopping
        return if process.drained?

        process.drained?.nil? ? "it does not say whether it has drained; use fleet wake" : "it has not drained"
      end
    end
  end
end
