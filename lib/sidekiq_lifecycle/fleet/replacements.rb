# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # The new processes that have come since an operation began. It knows neither Redis nor a clock.
    #
    # Redis keeps what a process published for a minute after its death. So one counts only as long as it is seen to be
    # alive: its heart has beaten again since it was first seen, and its last beat is not an old one.
    #
    # @api private
    class Replacements
      # Beats that a living process may be late by.
      BEATS = 2

      # @return [Integer] how many are alive and ready
      attr_reader :ready

      # @param known [Hash{String => Member}] who was there when it began, by identity
      # @param selection [Selection]
      def initialize(known, selection)
        @known = known
        @selection = selection
        @first_beats = {}
        @ready = 0
      end

      # Takes in another look at Redis.
      # @param members [Hash{String => Member}]
      # @param elapsed [Numeric] seconds since the operation began
      def see(members, elapsed)
        @ready = members.values.count { |member| new?(member, elapsed) && alive?(member) && member.ready? }
      end

      private

      # Not every unknown one is new: a Redis that had lost everything knows a process again after its next beat.
      def new?(member, elapsed)
        !@known.key?(member.identity) && !member.gone? && !member.embedded? && @selection.include?(member) &&
          !member.up_for.nil? && member.up_for <= elapsed
      end

      def alive?(member)
        first = @first_beats[member.identity] ||= member.beat
        member.beat != first && member.beat_age <= BEATS * member.beat_pause
      end
    end
  end
end
