# frozen_string_literal: true

require "time"
require_relative "../job"
require_relative "../text"
require_relative "format"

module SidekiqLifecycle
  class Fleet
    # The life of one process in a {Timeline}. An immutable value.
    class Lane
      # A state of a process: `:booting`, `:ready`, `:unready` (running, but not ready), `:draining`, `:drained`,
      # `:stopping`, or `:unknown`; from when until when, in seconds since 1970.
      Segment = Struct.new(:state, :from, :to) do
        # @return [Float]
        def seconds = to - from

        # @return [Hash{Symbol => Object}]
        def to_h = { state:, from: Format.iso(from), to: Format.iso(to) }
      end

      # @return [String] Sidekiq's name for the process
      attr_reader :identity
      # @return [Array<Segment>] its states, one after the other
      attr_reader :segments
      # @return [Symbol] how it ended: `:running` (it has not), `:stopped`, or `:silent`: its heartbeats ended without a
      #   word, as if it had been killed
      attr_reader :ending
      # @return [Float, nil] seconds from when it took no more jobs until it had finished those it had, or ended
      attr_reader :drain
      # @return [Integer] how many jobs were interrupted at its shutdown timeout, and pushed back
      attr_reader :interrupted
      # @return [Integer] how many jobs it could not push back
      attr_reader :lost
      # @return [Array<Job>] the first of those that were interrupted
      attr_reader :interrupted_jobs
      # @return [Array<Job>] the first of those that were lost
      attr_reader :lost_jobs

      # @api private
      # @param identity [String]
      # @param changes [Array<Array(Symbol, Float)>] states, and when they were entered
      # @param ending [Symbol]
      # @param from [Float] since when it is known to run, if its changes do not say so
      # @param to [Float] until when it was seen
      # @param jobs [Hash{String => Object}] how many were interrupted and lost, and their names
      def initialize(identity, changes, ending:, from:, to:, jobs: {})
        @identity = identity
        @ending = ending
        @segments = segments_of(changes, from, to)
        @drain = drain_of(changes, to)
        @interrupted, @lost = %w[interrupted lost].map { |kind| jobs[kind].is_a?(Integer) ? jobs[kind] : 0 }
        @interrupted_jobs, @lost_jobs = %w[interrupted_jobs lost_jobs].map { |kind| jobs_of(jobs[kind]) }
      end

      # @return [String] its host and pid, for people
      def name = Text.one_line(identity[/\A(.*:\d+):[^:]*\z/, 1] || identity)

      # @return [Float]
      def from = segments.first.from

      # @return [Float]
      def to = segments.last.to

      # @return [Boolean] whether its end has cost jobs, or may have
      def costly? = ending == :silent || interrupted.positive? || lost.positive?

      # @param from [Float]
      # @param to [Float]
      # @return [Lane, nil] the part of it between these moments, if there is one
      def within(from, to)
        return self if segments.any? && self.from >= from && self.to <= to

        parts = segments.map { |one| Segment.new(one.state, [one.from, from].max, [one.to, to].min) }
        parts.select! { |one| one.seconds.positive? }
        dup.tap { |copy| copy.instance_variable_set(:@segments, parts) } unless parts.empty?
      end

      # @return [Hash{Symbol => Object}]
      def to_h
        { process: Format.readable(identity), ending:, drain: drain&.round(3),
          interrupted:, interrupted_jobs: interrupted_jobs.map(&:to_h), lost:, lost_jobs: lost_jobs.map(&:to_h),
          states: segments.map(&:to_h) }
      end

      private

      # What is missing at its beginning has been trimmed from Redis, or the process does not have the gem.
      def segments_of(changes, from, to)
        entered = shown(changes)
        entered.unshift([:unknown, [from, entered.first&.last].compact.min]) unless entered.first&.first == :booting
        following = [*entered.drop(1).map(&:last), to]
        entered.zip(following).filter_map do |(state, at), ends|
          ends = [ends, to].min
          Segment.new(state, at, ends) if ends > at
        end
      end

      # Its states up to the last one: what is drained, or ready, while it stops is stopping.
      def shown(changes)
        last = changes.index { |state,| state == :stopping } || changes.size
        states = changes[..last].reject { |state,| state == :ended }
        states.map { |state, at| [state == :quiet ? :draining : state, at] }
      end

      def drain_of(changes, to)
        began = changes.find { |state,| %i[quiet stopping].include?(state) }&.last
        drained = changes.find { |state,| state == :drained }&.last
        [(drained || to) - began, 0].max if began
      end

      # Redis may contain anything.
      def jobs_of(jobs) = jobs.is_a?(Array) ? jobs.map { |job| Job.recorded(job) } : []
    end
  end
end
