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
      @lock = Mutex.new
    end

    # @param logger [Logger]
    # @param problem [String]
    # @return [void]
    def warn(logger, problem)
      logger.warn("sidekiq_lifecycle: #{Text.one_line(Text.masked(problem))}") if remember(problem)
    rescue StandardError
      nil
    end

    private

    # Several threads report problems. Only one of them logs a new one.
    #
    # @return [Boolean] whether it is new
    def remember(problem)
      @lock.synchronize do
        is_new = !@logged.delete(problem)
        @logged[problem] = true
        @logged.shift if @logged.size > REMEMBERED
        is_new
      end
    end
  end
end
