# frozen_string_literal: true

require_relative "../format"

module SidekiqLifecycle
  class Fleet
    module CLI
      # Shows progress on standard error, with the bar of the native commands.
      #
      # @api private
      class ProgressDisplay
        # How many of the longest running jobs are named.
        NAMED = 5

        def initialize
          @bar = Native::ProgressBar.new
        end

        # @param progress [Progress]
        def show(progress)
          notes = notes(progress.jobs)
          @bar.show(progress.done, progress.total, progress.to_s, notes, progress.timeout, progress.elapsed)
        end

        # @param line [String] a line that stays
        def print(line) = @bar.print(line)

        # Removes it, and leaves a clean line.
        def close = @bar.close

        private

        def notes(jobs)
          jobs.first(NAMED).map do |job|
            "#{job.job_class} #{job.jid} on #{job.process.name}, running for #{Format.duration(job.age)}"
          end
        end
      end
    end
  end
end
