# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # Counts the new processes that have come since an operation began. It knows neither Redis nor a clock.
    #
    # Redis keeps what a process published for a minute after its death. So a new process counts only while it is seen
    # to be alive: it has sent another heartbeat since it was first seen, and its last heartbeat is recent.
    #
    # @api private
    class Replacements
      # Heartbeats by which a living process may be late.
      BEATS = 2

      # @return [Integer] how many are alive and ready
      attr_reader :ready

      # @param known [Hash{String => Process}] the processes at the beginning, by identity
      # @param selection [Selection]
      def initialize(known, selection)
        @known = known
        @selection = selection
        @first_beats = {}
        @ready = 0
      end

      # Takes in another poll of Redis.
      #
      # @param processes [Hash{String => Process}]
      # @param elapsed [Numeric] seconds since the operation began
      def update(processes, elapsed)
        @ready = processes.values.count { |process| new?(process, elapsed) && alive?(process) && process.ready? }
      end

      private

      # Not every unknown process is new. If Redis had lost its data, it knows an old process again after its next
      # heartbeat.
      def new?(process, elapsed)
        !@known.key?(process.identity) && !process.gone? && !process.embedded? && @selection.include?(process) &&
          !process.up_for.nil? && process.up_for <= elapsed
      end

      def alive?(process)
        first = @first_beats[process.identity] ||= process.beat
        process.beat != first && process.beat_age <= BEATS * process.beat_pause
      end
    end
  end
end
