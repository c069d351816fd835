# frozen_string_literal: true

require_relative "format"
require_relative "lane"

module SidekiqLifecycle
  class Fleet
    # What the processes of the fleet were doing over some hours: a lane for each, how many were ready, and the moments
    # at which none was. It knows neither Redis nor a clock.
    #
    # Each process writes its times by its own clock, so a lane is as right as that clock. Of a process without this gem
    # it is only known that it runs now, and since when. A moment at which such a process ran is not called one without
    # a ready worker, because nobody knows.
    class Timeline
      # A moment without a ready worker.
      Gap = Struct.new(:from, :to, :lasts) do
        # @return [Float]
        def seconds = to - from

        # @return [Hash{Symbol => Object}]
        def to_h = { from: Format.iso(from), to: Format.iso(to), seconds: seconds.round(3), lasts: }
      end

      # Seconds for which the stream may lag behind: a process writes at its heartbeats.
      LAG = 10
      private_constant :LAG

      # @return [Float] its beginning
      attr_reader :from
      # @return [Float] its end
      attr_reader :to
      # @return [Array<Lane>] by their beginning
      attr_reader :lanes
      # @return [Array<Array(Float, String)>] the deploys that `Sidekiq::Deploy` knows
      attr_reader :marks

      # What the timeline can tell of a process by its present state alone.
      #
      # @param process [Process]
      # @return [Array<Array(Symbol, Float)>] empty without this gem
      def self.changes_of(process)
        return [] unless process.since

        states = { booting: :booting, running: process.ready? ? :ready : :unready, quiet: :quiet, stopping: :stopping }
        changes = [[states.fetch(process.state, :stopping), process.since.to_f]]
        process.drained_at && process.state == :quiet ? [*changes, [:drained, process.drained_at.to_f]] : changes
      end

      # @param changes [Hash{String => Array<Array(Symbol, Float)>}] by identity: states, and when they were entered
      # @param from [Float]
      # @param to [Float] now
      # @param living [Hash{String => Float, nil}] the processes that run now, and since when
      # @param beats [Hash{String => Float}] the last heartbeat of processes that did not write their end
      # @param jobs [Hash{String => Hash}] how many were interrupted and lost, and the names of the first of them
      # @param marks [Array<Array(Float, String)>] deploys
      # @param settled [Float] until when the changes are known to be complete
      # @param known_from [Float, nil] since when they are known; nil: they never were
      def initialize(changes, from:, to:, living: {}, beats: {}, jobs: {}, marks: [], known_from: nil,
                     settled: to - LAG)
        @from = from.to_f
        @to = to.to_f
        @settled = settled
        @is_known_before = !known_from.nil? && known_from < @from
        @marks = marks.reject { |at,| at < from || at > to }.sort
        whole = (changes.keys | living.keys).map do |identity|
          lane(identity, changes.fetch(identity, []), living, beats[identity], jobs.fetch(identity, {}))
        end
        @gaps = find_gaps(whole)
        @lanes = whole.filter_map { |lane| lane.within(@from, @to) }.sort_by { |one| [one.from, one.identity] }
      end

      # How many processes were ready, from each moment at which that changed.
      #
      # @return [Array<Array(Float, Integer)>]
      def ready
        @ready ||= changes_of_ready.each_with_object([[from, 0]]) do |(at, change), counts|
          count = counts.last.last + change
          # Of several changes at a moment, the last one counts.
          counts.last.first == at ? counts.last[1] = count : counts << [at, count]
        end
      end

      # @return [Array<Gap>] every moment without a ready worker: from the beginning, if it is known what was before;
      #   otherwise after the first worker was ready
      attr_reader :gaps

      # @return [Gap, nil] the longest of them
      def longest_gap = gaps.max_by(&:seconds)

      # @return [Lane, nil] the one whose drain took longest
      def longest_drain = lanes.select(&:drain).max_by(&:drain)

      # @return [Integer] jobs that were interrupted
      def interrupted = lanes.sum(&:interrupted)

      # @return [Integer] jobs that were lost
      def lost = lanes.sum(&:lost)

      # @return [Boolean] whether it is unknown of some process what it did
      def doubtful? = lanes.any? { |lane| lane.segments.any? { |one| one.state == :unknown } }

      # @return [Array<String>] what matters of it, as sentences
      def summary
        drain = longest_drain
        [ready_in_words,
         ("longest drain: #{Format.exact(drain.drain)} (#{drain.name})" if drain),
         *job_sentences, silent_in_words].compact
      end

      # @return [Hash{Symbol => Object}] all of it, to serialise
      def to_h
        { from: Format.iso(from), to: Format.iso(to), processes: lanes.map(&:to_h),
          ready: ready.map { |at, number| { at: Format.iso(at), ready: number } }, gaps: gaps.map(&:to_h),
          deploys: marks.map { |at, label| { at: Format.iso(at), label: Format.readable(label) } }, **brief }
      end

      # @return [Hash{Symbol => Object}] what matters of it, to serialise
      def brief
        drain = longest_drain
        { longest_gap: longest_gap&.to_h, interrupted:, lost:, doubtful: doubtful?,
          longest_drain: ({ process: Format.readable(drain.identity), seconds: drain.drain.round(3) } if drain) }
      end

      private

      # ---- lanes ----

      def lane(identity, changes, living, beat, jobs)
        ending, last = ending(changes, living.key?(identity), beat)
        Lane.new(identity, changes, ending:, from: living[identity] || from, to: last, jobs:)
      end

      def ending(changes, lives, beat)
        ended = changes.find { |state,| state == :ended }
        return [:stopped, ended.last] if ended

        lives ? [:running, to] : [:silent, [beat, changes.last&.last, 0].compact.max]
      end

      # ---- how many are ready ----

      # What lives does not end with the timeline.
      def changes_of_ready = edges(lanes, %i[ready]).reject { |at,| at >= to }

      # When processes enter one of the states (1) and leave it (-1), in the order of time; at one moment they enter
      # first.
      def edges(lanes, states)
        parts = lanes.flat_map(&:segments).select { |one| states.include?(one.state) }
        entered = parts.map(&:from).sort
        parts.map(&:to).sort.flat_map { |left| [*entries(entered, left), [left, -1]] }
      end

      # Takes those out that enter until then.
      def entries(entered, left)
        before = entered.take_while { |at| at <= left }
        entered.shift(before.size)
        before.map { |at| [at, 1] }
      end

      # From each moment at which the last one stops being ready to the one at which the next one is. Of a process in an
      # unknown state nobody knows that it was not ready.
      def find_gaps(lanes)
        first, *turns = turns(lanes)
        turns.unshift(from, *first) if @is_known_before && (first.nil? || first > from)
        turns.each_slice(2).filter_map { |began, ended| gap(began, ended || to, lasts: ended.nil?) }
      end

      # When the first process is ready, none is any more, one is again, and so on.
      def turns(lanes)
        count = 0
        edges(lanes, %i[ready unknown]).filter_map do |at, change|
          before = count
          count += change
          at if before.zero? || count.zero?
        end
      end

      # A change that is not written yet may end a gap that lasts.
      def gap(began, ended, lasts:)
        began = [began, from].max
        Gap.new(began, ended, lasts) if ended > began && !(lasts && began >= @settled)
      end

      # ---- sentences ----

      def ready_in_words
        return gaps_in_words if gaps.any?
        return "nothing is known of a ready worker" if lanes.none? { |lane| ready_once?(lane) }

        "a worker was ready at every moment#{" that is known" if doubtful?}"
      end

      def gaps_in_words
        gap = longest_gap
        "longest moment without a ready worker: #{Format.exact(gap.seconds)}, at #{Format.iso(gap.from)}" \
          "#{" (#{gaps.size} in all)" if gaps.size > 1}#{", and none is ready now" if gaps.last.lasts}"
      end

      def ready_once?(lane) = lane.segments.any? { |one| one.state == :ready }

      def job_sentences
        %i[interrupted lost].filter_map do |kind|
          number = public_send(kind)
          names = lanes.flat_map { |lane| lane.public_send(:"#{kind}_jobs") }.map(&:to_s)
          "#{Format.count(number, "job")} #{kind}#{": #{Format.list(names)}" if names.any?}" if number.positive?
        end
      end

      def silent_in_words
        silent = lanes.select { |lane| lane.ending == :silent }.map(&:name)
        "fell silent, as if killed: #{Format.list(silent)}" if silent.any?
      end
    end
  end
end
