# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # How far an operation has come. An immutable value.
    class Progress
      # @return [Symbol] what it waits for: `:ready`, `:quiet`, `:drained` or `:stopped`
      attr_reader :goal
      # @return [Integer] how many processes it is about
      attr_reader :total
      # @return [Integer] how many of them have got there
      attr_reader :done
      # @return [Array<Member>] those that have not, and still may
      attr_reader :pending
      # @return [Hash{String => String}] why others never will, by their name
      attr_reader :failed
      # @return [Array<Registry::Job>] the jobs that it waits for, the longest running first (of 100 processes at most)
      attr_reader :jobs
      # @return [Float] seconds since it began
      attr_reader :elapsed
      # @return [Float, nil] the longest it may take, in seconds
      attr_reader :timeout
      # @return [String, nil] what else is to be said: which batch it is, that Redis does not answer
      attr_reader :remark

      # @return [Hash{String => Integer}] how many processes have been told what; that stays told, however this ends
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

      # @return [Integer] jobs in hand in the processes that it waits for, at their last beats
      def busy = pending.sum(&:busy)

      # @return [Boolean] every process has got there
      def reached? = done == total

      # @return [String] for people, in one line
      def to_s
        jobs_left = busy.positive? && %i[drained stopped].include?(goal) ? Words.count(busy, "job") : nil
        silent = failed.empty? ? nil : "#{failed.size} never will"
        ["#{done} of #{total} #{goal}", jobs_left && "#{jobs_left} running", silent, remark].compact.join(", ")
      end

      # @return [Hash{Symbol => Object}] to serialise
      def to_h
        { goal:, total:, done:, busy:, pending: pending.map(&:to_h), failed:, jobs: jobs.map(&:to_h),
          elapsed: elapsed.round(1), timeout:, remark:, told: }
      end

      # @api private
      # @return [Progress] the same later, with another remark, or with more that have been told
      def later(elapsed:, remark: self.remark, told: self.told)
        self.class.new(goal:, total:, done:, pending:, failed:, jobs:, timeout:, told:, elapsed:, remark:)
      end
    end
  end
end
