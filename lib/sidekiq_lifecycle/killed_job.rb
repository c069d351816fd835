# frozen_string_literal: true

require "json"
require "time"
require_relative "job"
require_relative "text"

module SidekiqLifecycle
  # A job that a process had in hand when it was killed, and what became of it. It has no arguments. An immutable value.
  class KilledJob
    # @return [Job]
    attr_reader :job
    # @return [String] who had it: "process 4711", or Sidekiq's identity of a process
    attr_reader :process
    # @return [Time, nil] when it was fetched (UTC)
    attr_reader :started_at
    # @return [Symbol] what became of it: `:waiting`, `:put_back` (at the head of its queue), `:dead` (in the dead set,
    #   because it had been put back too often) or `:kept` (its fetch keeps a copy)
    attr_reader :outcome
    # @return [Time, nil] when that happened (UTC); nil while it waits
    attr_reader :at
    # @return [String, nil] who put it back
    attr_reader :by

    # @api private
    # @param line [String] of the history in Redis
    # @return [KilledJob, nil] nil: no such line
    def self.parse(line)
      fields = JSON.parse(Text.readable(line))
      outcome = fields.fetch("outcome")
      return unless Native.format_outcome(outcome, nil)

      new(job: Job.recorded(fields.slice("class", "jid", "queue")), process: fields["process"], outcome: outcome.to_sym,
          started_at: time(fields["started_at"]), at: time(fields["at"]), by: fields["by"])
    rescue JSON::ParserError, KeyError, NoMethodError, TypeError, ArgumentError
      nil # no process of this gem writes that
    end

    def self.time(text) = text && Time.iso8601(text)
    private_class_method :time

    # @api private
    def initialize(job:, process:, outcome:, started_at: nil, at: nil, by: nil)
      @job = job
      @process = Text.one_line(process.to_s)
      @outcome = outcome
      @started_at = started_at
      @at = at
      @by = by && Text.one_line(by.to_s)
      freeze
    end

    # @return [Boolean] whether it waits to be put back
    def waiting? = outcome == :waiting

    # @return [String] what became of it: "put back 5 min ago"
    def outcome_in_words = Native.format_outcome(outcome.to_s, at && (Time.now - at))

    # @return [Hash{Symbol => Object}] all fields, to serialise
    def to_h
      { **job.to_h.slice(:class, :jid, :queue), process:, outcome:, by:, **times }
    end

    # @return [String]
    def inspect = "#<#{self.class} #{job} of #{process}: #{outcome_in_words}>"

    private

    def times = { started_at:, at: }.transform_values { |time| time&.utc&.iso8601(3) }
  end
end
