# frozen_string_literal: true

require_relative "../format"
require_relative "../timeline"

module SidekiqLifecycle
  class Fleet
    module CLI
      # A timeline for a terminal: a row of letters for each process, and the number of ready ones below.
      #
      # @api private
      class TimelineText
        # The letters of the states. Of several in one column, the first of these is shown.
        LETTERS = { unready: "n", stopping: "s", draining: "d", booting: "b", drained: "D", ready: "=",
                    unknown: "?" }.freeze
        # Their colours.
        COLOURS = { unready: 31, stopping: 35, draining: 33, booting: 2, drained: 36, ready: 32 }.freeze
        # Columns of the picture, without the names.
        COLUMNS = 72
        # How many rows are printed.
        ROWS = 60
        # The letters in words.
        LEGEND = "b booting, = ready, n running but not ready, d draining, D drained, s stopping, ? unknown; " \
                 "x killed, ! jobs interrupted or lost"

        # @param timeline [Timeline]
        # @param colour [Boolean]
        def initialize(timeline, colour:)
          @timeline = timeline
          @colour = colour
          @width = (timeline.to - timeline.from) / COLUMNS
          @names = [*timeline.lanes.first(ROWS).map { |lane| lane.name.size }, 5].max
        end

        # @return [String]
        def to_s
          more = @timeline.lanes.size - ROWS
          [ends, *@timeline.lanes.first(ROWS).map { |lane| "#{lane.name.ljust(@names)} #{row(lane)}" },
           ("and #{Format.count(more, "more process", "more processes")}" if more.positive?),
           "#{"ready".ljust(@names)} #{ready}", LEGEND, *deploys, "", *@timeline.summary].compact.join("\n")
        end

        private

        def ends
          from, to = [@timeline.from, @timeline.to].map { |at| Time.at(at).utc.strftime("%Y-%m-%d %H:%M:%S UTC") }
          "#{" " * @names} #{from}#{to.rjust(COLUMNS - from.size)}"
        end

        def row(lane)
          cells = Array.new(COLUMNS, " ")
          LETTERS.reverse_each do |state, letter|
            lane.segments.select { |one| one.state == state }.each { |one| fill(cells, one, painted(letter, state)) }
          end
          last = [((lane.to - @timeline.from) / @width).floor, COLUMNS - 1].min
          cells[last] = painted("x", :unready) if lane.ending == :silent
          cells[last] = painted("!", :unready) if (lane.interrupted + lane.lost).positive?
          cells.join.rstrip
        end

        def fill(cells, one, letter)
          first = ((one.from - @timeline.from) / @width).floor
          last = ((one.to - @timeline.from) / @width).ceil - 1
          (first..[last, COLUMNS - 1].min).each { |column| cells[column] = letter }
        end

        # The lowest number of each column.
        def ready
          steps = @timeline.ready
          place = 0
          Array.new(COLUMNS) do |column|
            lowest = steps[place].last
            while (following = steps[place + 1]) && following.first < @timeline.from + ((column + 1) * @width)
              place += 1
              lowest = [lowest, following.last].min
            end
            digit(lowest)
          end.join
        end

        def digit(count)
          return "+" if count > 9

          count.zero? && @timeline.gaps.any? ? painted("0", :unready) : count.to_s
        end

        def deploys = @timeline.marks.map { |at, label| "deploy #{Format.iso(at)} #{label}" }

        def painted(letter, state)
          colour = COLOURS[state]
          @colour && colour ? "\e[#{colour}m#{letter}\e[0m" : letter
        end
      end
    end
  end
end
