# frozen_string_literal: true

require_relative "../format"

module SidekiqLifecycle
  class Fleet
    module CLI
      # Jobs of killed processes as a table for people, with the columns of `sidekiq-lifecycle lost`.
      #
      # @api private
      class LostTable
        # The columns.
        HEADINGS = %w[STARTED PROCESS QUEUE JOB OUTCOME].freeze
        # What a row's colour says.
        TONES = { waiting: "changing", put_back: "good", dead: "bad", kept: "plain" }.freeze

        # @param jobs [Array<KilledJob>]
        # @param colour [Boolean]
        def initialize(jobs, colour:)
          @jobs = jobs
          @colour = colour
        end

        # @return [String]
        def to_s
          rows = @jobs.map { |job| [row(job), TONES.fetch(job.outcome)] }
          Native.format_table(HEADINGS, rows, @colour).join("\n")
        end

        private

        def row(job)
          started = "#{Format.duration([Time.now - job.started_at, 0].max)} ago" if job.started_at
          cells = [started, job.process.delete_prefix("process "), job.job.queue, job.job.name, job.outcome_in_words]
          cells.map { |cell| Text.one_line(cell || "-") }
        end
      end
    end
  end
end
