# frozen_string_literal: true

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
          notes = progress.jobs.first(NAMED).map(&:to_s)
          @bar.show(progress.done, progress.total, progress.to_s, notes, progress.timeout, progress.elapsed)
        end

        # @param line [String] a line that stays
        def print(line) = @bar.print(line)

        # Removes it, and leaves a clean line.
        def close = @bar.close
      end
    end
  end
end
