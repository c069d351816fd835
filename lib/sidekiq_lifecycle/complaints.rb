# frozen_string_literal: true

require_relative "text"

module SidekiqLifecycle
  # What goes wrong, in Sidekiq's log: each once, as far as is remembered, and without what may be a secret. Where it
  # cannot be said, it stays unsaid: nothing is raised.
  #
  # @api private
  class Complaints
    # How many different ones are remembered.
    REMEMBERED = 100

    # Says it where there is no logger.
    #
    # @param problem [String]
    # @param output [IO]
    def self.say(problem, output = $stderr)
      output.puts("sidekiq_lifecycle: #{Text.one_line(Text.masked(problem))}")
    rescue StandardError
      nil
    end

    def initialize
      @made = {}
    end

    # @param logger [Logger]
    # @param problem [String]
    def make(logger, problem)
      is_known = @made.delete(problem)
      @made[problem] = true
      @made.shift if @made.size > REMEMBERED
      logger.warn("sidekiq_lifecycle: #{Text.one_line(Text.masked(problem))}") unless is_known
    rescue StandardError
      nil
    end
  end
end
