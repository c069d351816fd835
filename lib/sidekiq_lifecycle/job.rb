# frozen_string_literal: true

require "json"
require "time"
require_relative "text"

module SidekiqLifecycle
  # A job, as everyone may see it: without its arguments. An immutable value.
  class Job
    # The longest class, jid or queue that is kept, in characters.
    LONGEST = 100

    # @return [String, nil] its class; with Active Job the application's; nil: unknown
    attr_reader :job_class
    # @return [String, nil] nil: unknown
    attr_reader :jid
    # @return [String, nil] the queue that it was fetched from; nil: unknown
    attr_reader :queue
    # @return [Float, nil] seconds since it started, or until it was interrupted or lost; nil: unknown
    attr_reader :running_for

    # @api private
    # @param payload [Hash, String, nil] what Sidekiq has in Redis, or its JSON; nil: unknown
    # @param queue [String, nil] nil: the one in the payload
    # @return [Job]
    def self.of(payload, queue: nil)
      fields = payload.is_a?(Hash) ? payload : JSON.parse(Text.readable(payload))
      # ActiveJob hides the class.
      new(job_class: fields["wrapped"] || fields["class"], jid: fields["jid"], queue: queue || fields["queue"])
    rescue JSON::ParserError, TypeError, NoMethodError
      new(queue:)
    end

    # @api private
    # @param unit [#queue, #job] Sidekiq's unit of work
    # @yieldparam jid [String]
    # @yieldreturn [Float, nil] how long it has been running
    # @return [Job]
    def self.of_unit(unit)
      job = of(unit.job, queue: unit.queue.to_s.delete_prefix("queue:"))
      return job unless job.jid && block_given?

      new(job_class: job.job_class, jid: job.jid, queue: job.queue, running_for: yield(job.jid))
    end

    # @api private
    # @param fields [Object] a job as the record or Redis has it; Redis may have anything
    # @param now [Time]
    # @return [Job]
    def self.recorded(fields, now = Time.now)
      return new unless fields.is_a?(Hash)

      running_for, started_at = fields.values_at("running_for", "started_at")
      running_for ||= [now - Time.iso8601(started_at), 0.0].max if started_at.is_a?(String)
      new(job_class: fields["class"], jid: fields["jid"], queue: fields["queue"],
          running_for: (running_for if running_for.is_a?(Numeric)))
    rescue ArgumentError
      new # the time is none
    end

    # @api private
    def initialize(job_class: nil, jid: nil, queue: nil, running_for: nil)
      @job_class, @jid, @queue = [job_class, jid, queue].map { |part| part && Text.readable(part.to_s)[0, LONGEST] }
      @running_for = running_for
      Ractor.make_shareable(self) # frozen, and all in it
    end

    # @return [String] its class and jid
    def name
      parts = [job_class, jid].compact
      parts.empty? ? "a job whose name is not known" : Text.one_line(parts.join(" "))
    end

    # @return [String] for people: "ReportJob 1a2b (queue reports, running for 2 h)"
    def to_s
      details = [queue && "queue #{Text.one_line(queue)}",
                 running_for && "running for #{Native.format_duration(running_for)}"].compact
      details.empty? ? name : "#{name} (#{details.join(", ")})"
    end

    # @return [String]
    def inspect = "#<#{self.class} #{self}>"

    # @return [Hash{Symbol => Object}] all fields, to serialise
    def to_h = { class: job_class, jid:, queue:, running_for: running_for&.round(1) }
  end
end
