# frozen_string_literal: true

require_relative "text"

module SidekiqLifecycle
  # How a process ends, read from the exception that `at_exit` finds.
  #
  # @api private
  module Ending
    # @param error [Exception, nil] `$!`
    # @return [Array(Integer, String)] the exit status a shell would show, and why (nil: nothing to say)
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
