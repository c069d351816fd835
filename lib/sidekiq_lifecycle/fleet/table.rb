# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # The fleet as a table for people.
    #
    # @api private
    class Table
      # The columns.
      HEADINGS = %w[PROCESS STATE BUSY BEAT SIDEKIQ TAG QUEUES SIGTERM].freeze
      # Escape sequences (ECMA-48, Select Graphic Rendition).
      COLOURS = { running: 32, quiet: 33, stopping: 33, ghost: 31 }.freeze

      # @param members [Array<Member>]
      # @param colour [Boolean]
      def initialize(members, colour:)
        @members = members
        @names = members.map(&:name).tally
        @colour = colour
      end

      # @return [String]
      def to_s
        rows = @members.map { |member| row(member).map { |cell| Text.one_line(cell) } }
        widths = [HEADINGS, *rows].transpose.map { |column| column.map(&:size).max }
        line = ->(cells) { cells.zip(widths).map { |cell, width| cell.ljust(width) }.join("  ").rstrip }
        body = rows.zip(@members).map { |cells, member| paint(line.call(cells), COLOURS[member.state]) }
        [paint(line.call(HEADINGS), 1), *body, "", summary].join("\n")
      end

      private

      def row(member)
        beat = "#{Words.span(member.beat_age)} ago" if member.beat_age
        cells = [name(member), state(member), busy(member), beat, member.version, member.tag, queues(member),
                 member.signal_path]
        cells.map { |cell| cell || "-" }
      end

      # What can be given back to `--match`: hostname and pid, or where several have the same the identity.
      def name(member) = @names[member.name] == 1 ? member.name : member.full_name

      def state(member) = drained?(member) ? "#{member.state}, drained" : member.state

      def drained?(member) = member.drained? && !member.gone?

      def busy(member)
        [member.busy, *member.concurrency].join("/") unless member.ghost?
      end

      def queues(member)
        shown = member.queues.first(3)
        more = member.queues.size - shown.size
        "#{shown.join(",")}#{"+#{more}" if more.positive?}" if shown.any?
      end

      def summary
        states = @members.map(&:state).tally.sort.map { |state, number| "#{number} #{state}" }
        drained = @members.count { |member| drained?(member) }
        states << "#{drained} drained" if drained.positive?
        threads = @members.sum { |member| member.concurrency.to_i }
        "#{@members.size} in all: #{states.join(", ")}; #{@members.sum(&:busy)} of #{threads} threads busy"
      end

      def paint(text, code) = @colour && code ? "\e[#{code}m#{text}\e[0m" : text
    end
  end
end
