# frozen_string_literal: true

require_relative "text"

module SidekiqLifecycle
  # Why a process exits, read from the exception that `at_exit` finds.
  #
  # @api private
  module ExitReason
    # @param error [Exception, nil] `$!`
    # @return [Array(Integer, String)] the exit status a shell would show, and the reason (nil: none)
    def self.of(error)
      case error
      when nil then [0, nil]
      when SystemExit then [error.status, (describe(error.cause) unless error.success?)]
      when SignalException then [128 + error.signo, describe(error)]
      else [1, describe(error)]
      end
    end

    def self.describe(error)
      case error
      when nil then nil
      when SignalException then "SIG#{Signal.signame(error.signo)}"
      else Text.error(error)
      end
    end
    private_class_method :describe
  end
end
