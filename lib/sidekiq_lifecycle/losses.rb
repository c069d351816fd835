# frozen_string_literal: true

require_relative "job_name"
require_relative "text"

module SidekiqLifecycle
  # The jobs that a process was told to finish, and has not. Two capsules may come here at once.
  #
  # @api private
  class Losses
    # @return [String, nil] what is lost, in a sentence
    attr_reader :problem

    def initialize
      @cut_off = []
      @lost = []
    end

    # Sidekiq's timeout has passed with so many jobs in hand.
    def cut_off(count) = @cut_off << count

    # Jobs are in nobody's hands any more.
    #
    # @param jobs [Array<Hash, String, nil>] nil: one that is not known
    # @param error [Exception] why they are
    def lose(jobs, error)
      return if jobs.empty?

      @lost.concat(jobs)
      count = @lost.one? ? "a job could not be pushed back to Redis and is" : many
      @problem = "#{count} lost (#{Text.error(error)}), so this process is not called drained: #{names}"
    end

    # @return [Boolean] all that there was to finish is finished, as far as is known
    def none? = @cut_off.empty? && @lost.empty?

    # @return [Hash{Symbol => Integer}] how many
    def counts = { cut_off: @cut_off.sum, lost: @lost.size }

    # @return [Array<String>] which ones are lost
    def lost_jobs = @lost.map { |job| job ? JobName.of(job) : "a job that had just been fetched" }

    private

    def many = "#{@lost.size} jobs could not be pushed back to Redis and are"

    def names
      known = @lost.compact
      unknown = @lost.size - known.size
      [*known.map { |job| JobName.of(job) }, ("#{unknown} just fetched" if unknown.positive?)].compact.join(", ")
    end
  end
end
