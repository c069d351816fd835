# frozen_string_literal: true

require_relative "format"

module SidekiqLifecycle
  class Fleet
    # How far an operation has come. An immutable value.
    class Progress
      # @return [Symbol] the goal: `:ready`, `:quiet`, `:drained` or `:stopped`
      attr_reader :goal
      # @return [Integer] number of processes
      attr_reader :total
      # @return [Integer] how many of them have reached the goal
      attr_reader :done
      # @return [Array<Process>] the processes that have not, and still may
      attr_reader :pending
      # @return [Hash{String => String}] why other processes never will, by name
      attr_reader :failed
      # @return [Array<Registry::Job>] running jobs of up to 100 pending processes, the longest running first
      attr_reader :jobs
      # @return [Float] seconds since the operation began
      attr_reader :elapsed
      # @return [Float, nil] the longest it may take, in seconds
      attr_reader :timeout
      # @return [String, nil] anything else worth knowing: the current batch, or that Redis does not answer
      attr_reader :remark
      # @return [Hash{String => Integer}] how many processes were sent `"quiet"` and `"stop"`. This stays in effect,
      #   however the operation ends.
      attr_reader :told

      # @api private
      def initialize(goal:, total:, done:, elapsed:, pending: [], failed: {}, jobs: [], timeout: nil, remark: nil,
                     told: {})
        @goal = goal
        @total = total
        @done = done
        @pending = pending.freeze
        @failed = failed.freeze
        @jobs = jobs.freeze
        @elapsed = elapsed
        @timeout = timeout
        @remark = remark
        @told = told.freeze
        freeze
      end

      # @return [Integer] running jobs of the pending processes, at their last heartbeats
      def busy = pending.sum(&:busy)

      # @return [Boolean] whether every process has reached the goal
      def reached? = done == total

      # @return [String] one line for people
      def to_s = [*standing, remark].compact.join(", ")

      # @return [String] the same, with the names of running jobs
      def to_long_s = jobs.empty? ? to_s : "#{self}; still running: #{Format.list(jobs)}"

      # @return [String] the same at the end, with how long it took
      def to_final_s = ["#{standing.join(", ")} after #{Format.duration(elapsed)}", remark].compact.join(", ")

      # @return [Hash{Symbol => Object}] all fields, to serialise
      def to_h
        { goal:, total:, done:, busy:, pending: pending.map(&:to_h), failed:, jobs: jobs.map(&:to_h),
          elapsed: elapsed.round(1), timeout:, remark:, told: }
      end

      # @api private
      # @return [Progress] the same at a later time, with another remark, or with more processes told
      def later(elapsed:, remark: self.remark, told: self.told)
        self.class.new(goal:, total:, done:, pending:, failed:, jobs:, timeout:, told:, elapsed:, remark:)
      end

      private

      def standing
        parts = ["#{done} of #{total} #{goal}"]
        parts << "#{Format.count(busy, "job")} running" if busy.positive? && %i[drained stopped].include?(goal)
        parts << "#{failed.size} never will" if failed.any?
        parts
      end
    end
  end
end
