# frozen_string_literal: true

require "json"
require_relative "text"

module SidekiqLifecycle
  # The name of a job for people: its class and its jid.
  #
  # @api private
  module JobName
    # @param job [Hash, String] the job, or its JSON
    # @return [String]
    def self.of(job)
      job = JSON.parse(Text.readable(job)) unless job.is_a?(Hash)
      # ActiveJob hides the class.
      [job["wrapped"] || job["class"], job["jid"]].compact.join(" ")
    rescue JSON::ParserError, TypeError, NoMethodError
      "a job that is not JSON"
    end

    # @param jobs [Array<Hash, String>]
    # @return [String]
    def self.list(jobs) = jobs.map { |job| of(job) }.join(", ")
  end
end
