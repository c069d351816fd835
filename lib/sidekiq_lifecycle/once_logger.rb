# frozen_string_literal: true

require_relative "text"

module SidekiqLifecycle
  # Logs each problem once, as far as it remembers, and without what may be a secret. It never raises: a problem that
  # cannot be logged is dropped.
  #
  # @api private
  class OnceLogger
    # How many different problems are remembered.
    REMEMBERED = 100

    # Prints a problem where there is no logger.
    #
    # @param problem [String]
    # @param output [IO]
    # @return [void]
    def self.print(problem, output = $stderr)
      output.puts("sidekiq_lifecycle: #{Text.one_line(Text.masked(problem))}")
    rescue StandardError
      nil
    end

    def initialize
      @logged = {}
    end

    # @param logger [Logger]
    # @param problem [String]
    # @return [void]
    def warn(logger, problem)
      is_known = @logged.delete(problem)
      @logged[problem] = true
      @logged.shift if @logged.size > REMEMBERED
      logger.warn("sidekiq_lifecycle: #{Text.one_line(Text.masked(problem))}") unless is_known
    rescue StandardError
      nil
    end
  end
end
