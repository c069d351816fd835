# frozen_string_literal: true

require "json"
require_relative "../../cli"

module SidekiqLifecycle
  class Fleet
    module CLI
      # Shows progress on standard error. The native command draws it, as it draws its own.
      #
      # @api private
      class ProgressDisplay
        # How many of the longest running jobs are named.
        NAMED = 5

        def initialize
          reader, @pipe = IO.pipe
          @pid = spawn([SidekiqLifecycle::CLI.path, SidekiqLifecycle::CLI::NAME], "progress", in: reader, out: :err)
          reader.close
          @pipe.sync = true
        end

        # @param progress [Progress]
        def show(progress)
          write(done: progress.done, total: progress.total, message: progress.to_s, notes: notes(progress.jobs),
                timeout: progress.timeout, begun: progress.elapsed)
        end

        # @param line [String] a line that stays
        def print(line) = write(line:)

        # Removes it, and leaves a clean line.
        def close
          @pipe.close
          ::Process.wait(@pid)
        end

        private

        def notes(jobs)
          jobs.first(NAMED).map do |job|
            "#{job.job_class} #{job.jid} on #{job.process.name}, running for #{Format.duration(job.age)}"
          end
        end

        def write(step)
          @pipe.write("#{JSON.generate(step)}\n")
        rescue Errno::EPIPE
          nil # the display has ended
        end
      end
    end
  end
end
