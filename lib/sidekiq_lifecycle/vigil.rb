# frozen_string_literal: true

require_relative "majors"
require_relative "unfailing"

module SidekiqLifecycle
  # What is watched over while jobs run and while Sidekiq ends: who takes its signals or keeps Ruby from running, whose
  # hooks take long, and what cannot be logged. The other half is `src/worker/vigil.rs`.
  #
  # @api private
  module Vigil
    # Seconds that Sidekiq gives to the jobs it has cut off (`manager.rb`, `hard_shutdown`).
    CLEANUP = 3

    private

    # The core finds what Ruby is to log, and asks in this way whether Ruby's threads get to run. Waiting costs nothing.
    def listen_to_core
      thread = Thread.new do
        loop do
          @native.listen
          SidekiqLifecycle.hear(:report_problems)
        end
      end
      thread.name = "sidekiq_lifecycle"
    end

    # A job or a library has set a trap over Sidekiq's.
    def restore(signal)
      theirs = @traps.restore(signal)
      @native.rearm(signal)
      what = theirs ? "had been taken from Sidekiq by #{theirs}" : "could no longer be observed"
      @config.logger.warn("sidekiq_lifecycle: #{signal} #{what}; repaired")
    end

    # Sidekiq is about to say that it stops, or takes no more jobs. Nothing that it says may keep it from that.
    def parting
      @native.mute
      Unfailing.make(@config.logger)
    end

    # The core can name what is in hand when one of them lets no other thread run.
    def job_begins(job) = @native.takes(job["jid"].to_s, (job["wrapped"] || job["class"]).to_s)

    def job_ends(job) = @native.gives(job["jid"].to_s)

    # The application's own hooks. In 7 and later those at :shutdown run beside the jobs, for as long as these are left.
    def hooks_begin(event)
      beside = event == :shutdown && Majors.capsules? ? options[:timeout] + CLEANUP : 0
      @native.hooks_begin(event == :at_exit ? "at_exit" : ":#{event}", beside.to_f)
    end

    def hooks_end
      @native.hooks_end
      report_problems
    end
  end
end
