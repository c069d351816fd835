# frozen_string_literal: true

require "json"
require_relative "flight_recorder"
require_relative "text"

module SidekiqLifecycle
  # What the log says of jobs that a killed process had in hand: a line each, without their arguments. The lifecycle
  # directory keeps the same, for `sidekiq-lifecycle lost`.
  #
  # @api private
  class RecoveryLog
    # @param outcome [PutBack::Outcome]
    # @return [String] for people
    def self.sentence(outcome)
      killed_job = outcome.killed_job
      job = killed_job.job
      killed = "#{killed_job.process} was killed while it had #{job.name}"
      return "#{killed}, which somebody has put back already" if outcome.already?

      case killed_job.outcome
      when :put_back then "#{killed}, which is at the head of #{job.queue} again (put back #{times(outcome.times)})"
      when :dead then "#{killed}, which was put back #{times(outcome.times)} before, and is in the dead set now"
      when :kept then "#{killed}; #{FlightRecorder.foreign_fetch || "its fetch"} keeps its own copy"
      end
    end

    # @param owner [String] the process that had them
    # @param error [StandardError] what trying again at the next heartbeat does not mend
    # @return [String] for people
    def self.failure(owner, error)
      "cannot put back what #{owner} had in hand (#{Text.error(error)}); the next Sidekiq that starts tries again"
    end

    def self.times(count) = count == 1 ? "once" : "#{count} times"
    private_class_method :times

    # @param logger [Logger] Sidekiq's
    # @param native [Native::Process] whose directory keeps what became of the jobs
    def initialize(logger, native)
      @logger = logger
      @native = native
    end

    # @param outcome [PutBack::Outcome]
    # @return [void]
    def add(outcome)
      warn(RecoveryLog.sentence(outcome))
      @native.note_outcome(JSON.generate(outcome.killed_job.to_h)) unless outcome.already?
    end

    # @param message [String]
    # @return [void]
    def warn(message) = @logger.warn("sidekiq_lifecycle: #{Text.one_line(message)}")
  end
end
