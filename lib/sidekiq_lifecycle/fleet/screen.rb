# frozen_string_literal: true

require "json"
require_relative "../native_command"

module SidekiqLifecycle
  class Fleet
    # Shows progress on standard error, drawn by the native command, which draws its own in the same way.
    #
    # @api private
    class Screen
      # How many of the slowest jobs are named.
      NAMED = 5

      def initialize
        reader, @pipe = IO.pipe
        @pid = spawn([NativeCommand.path, NativeCommand::NAME], "progress", in: reader, out: :err)
        reader.close
        @pipe.sync = true
      end

      # @param progress [Progress]
      def show(progress)
        write(done: progress.done, total: progress.total, message: progress.to_s, notes: notes(progress.jobs),
              timeout: progress.timeout, begun: progress.elapsed)
      end

      # @param line [String] that is to stay
      def say(line) = write(line:)

      # Ends it, and leaves a clean line.
      def close
        @pipe.close
        Process.wait(@pid)
      end

      private

      def notes(jobs)
        jobs.first(NAMED).map do |job|
          "#{job.job_class} #{job.jid} on #{job.member.name}, running for #{Words.span(job.age)}"
        end
      end

      def write(step)
        @pipe.write("#{JSON.generate(step)}\n")
      rescue Errno::EPIPE
        nil # nobody is looking any more
      end
    end
  end
end
