# frozen_string_literal: true

require "cgi/escape"
require_relative "format"
require_relative "timeline"

module SidekiqLifecycle
  class Fleet
    # Draws a {Timeline} as SVG: a lane for each process, the number of ready ones below, every moment without one in
    # red, deploys and lost jobs as marks. It needs no script and no font. What is drawn says its figures: in a title
    # for the pointer, and in a line that shows while it has the keyboard's focus.
    #
    # @api private
    class TimelineSvg
      WIDTH = 960
      LEFT = 176
      RIGHT = 944
      HEAD = 24
      LINE = 18
      MARKS = 34
      ROW = 21
      BAR = 14
      CURVE = 56
      AXIS = 58
      # How many lanes are drawn. A picture of thousands shows nothing.
      LANES = 60
      # Seconds between two ticks of the axis: the first with at most {TICKS} of them.
      STEPS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800].freeze
      TICKS = 9
      # The characters of a mark's words, which would cover each other.
      WORDS = 28
      # The style of the picture, for a file. A page has it in its own stylesheet.
      STYLE = File.expand_path("timeline.css", __dir__)
      # The states in the order of a process's life, with the words for the legend.
      STATES = { booting: "booting", ready: "ready", unready: "running, but not ready",
                 draining: "draining", drained: "drained", stopping: "stopping", unknown: "unknown" }.freeze
      # A pattern on top of the colour.
      PATTERNS = {
        booting: '<circle class="dots" cx="3" cy="3" r="1"/>',
        unready: '<path class="strokes" d="M0 3H6M3 0V6"/>',
        draining: '<path class="strokes" d="M0 6L6 0"/>',
        drained: '<path class="strokes" d="M0 3H6"/>',
        stopping: '<path class="strokes" d="M0 0L6 6"/>'
      }.freeze
      private_constant :WIDTH, :LEFT, :RIGHT, :HEAD, :LINE, :MARKS, :ROW, :BAR, :CURVE, :AXIS, :TICKS

      # @param timeline [Timeline]
      # @param styled [Boolean] whether the picture brings its style
      def initialize(timeline, styled: true)
        @timeline = timeline
        @styled = styled
        @lanes = drawn_lanes
        @summary = [*timeline.summary, *left_out]
      end

      # @return [String]
      def to_s
        body = [heading, marks, gaps, *lanes, curve, axis, legend].flatten.compact.join("\n")
        <<~SVG
          <svg xmlns="http://www.w3.org/2000/svg" class="timeline" viewBox="0 0 #{WIDTH} #{height}" width="#{WIDTH}" height="#{height}" role="group" aria-labelledby="timeline-title timeline-summary">
          <title id="timeline-title">#{escape(title)}</title>
          <desc id="timeline-summary">#{escape(@summary.join(". "))}</desc>
          #{"<style>\n#{File.read(STYLE)}</style>" if @styled}
          <defs>#{PATTERNS.map { |state, shape| pattern(state, shape) }.join}</defs>
          <rect class="paper" x=".5" y=".5" width="#{WIDTH - 1}" height="#{height - 1}" rx="6"/>
          #{body}
          </svg>
        SVG
      end

      private

      # ---- what is drawn ----

      # Those that say most, if there are too many: what has cost jobs, then what has begun or ended, the latest first.
      def drawn_lanes
        all = @timeline.lanes
        return all if all.size <= LANES

        changing = ->(lane) { lane.segments.size > 1 || lane.ending == :stopped ? 0 : 1 }
        all.sort_by { |lane| [lane.costly? ? 0 : 1, changing[lane], -lane.to, -lane.from] }.first(LANES)
           .sort_by { |lane| [lane.from, lane.identity] }
      end

      def left_out
        more = @timeline.lanes.size - @lanes.size
        ["#{Format.count(more, "more process", "more processes")} counted, but not drawn"] if more.positive?
      end

      def title = "Sidekiq processes, #{moment(@timeline.from)} to #{moment(@timeline.to)}"

      # ---- places ----

      def lanes_top = HEAD + ((@summary.size + 1) * LINE) + MARKS
      def curve_bottom = lanes_top + (@lanes.size * ROW) + CURVE
      def height = curve_bottom + AXIS
      def x(at) = n(LEFT + ((at - @timeline.from) * (RIGHT - LEFT) / (@timeline.to - @timeline.from)))
      def n(number) = number.round(1)

      # ---- parts ----

      def heading
        bad = [*(0 if @timeline.gaps.any?)]
        [text(16, HEAD, title, "title"),
         *@summary.each_with_index.map do |line, place|
           text(16, HEAD + ((place + 1) * LINE), shortened(line, 140), bad.include?(place) ? "bad" : "soft")
         end]
      end

      def marks
        @timeline.marks.map do |at, label|
          words = "deploy #{label}, #{moment(at)}"
          figure("deploy", words, x(at), lanes_top - 20,
                 [path("mark", "M#{x(at)} #{lanes_top - 16}V#{curve_bottom}"),
                  text(x(at), lanes_top - 20, shortened(label, WORDS), "soft", anchor(at))])
        end
      end

      def gaps
        @timeline.gaps.map do |gap|
          lasts = ", and none is yet" if gap.lasts
          words = "no worker was ready for #{Format.exact(gap.seconds)}: #{span(gap)}#{lasts}"
          width = [x(gap.to) - x(gap.from), 1.5].max
          figure("without-ready", words, x(gap.from), lanes_top - 6,
                 [rect("gap", x(gap.from), lanes_top - 3, n(width), curve_bottom - lanes_top + 3),
                  text(x(gap.from), lanes_top - 6, Format.exact(gap.seconds), "bad", anchor(gap.from))])
        end
      end

      def lanes
        @lanes.each_with_index.map do |lane, row|
          top = lanes_top + (row * ROW)
          [text(LEFT - 8, top + 12, shortened(lane.name, 26), "name", "end"),
           figure("lane", "#{lane.name}: #{in_words(lane)}", LEFT, top + 12,
                  [*lane.segments.map { |one| segment(one, top) }, *ending(lane, top)], titled: false)]
        end
      end

      def in_words(lane)
        states = lane.segments.map { |one| "#{STATES.fetch(one.state)} #{Format.exact(one.seconds)}" }
        [*states, ({ stopped: "ended", silent: "fell silent, as if killed" }[lane.ending] if lane.to < @timeline.to),
         *costs(lane)].compact.join(", ")
      end

      def costs(lane)
        counts = { "interrupted" => lane.interrupted, "lost" => lane.lost }.select { |_, number| number.positive? }
        counts.map { |words, number| "#{Format.count(number, "job")} #{words}" }
      end

      def segment(one, top)
        width = [n(x(one.to) - x(one.from)), 0.5].max
        frame = [x(one.from), top, width, BAR]
        words = "#{STATES.fetch(one.state)} for #{Format.exact(one.seconds)}: #{span(one)}"
        shape = [rect(one.state, *frame)]
        shape << %(<rect fill="url(#timeline-#{one.state})" #{box(*frame)}/>) if PATTERNS.key?(one.state)
        label = label(one.state, width)
        dark = %i[booting unknown].include?(one.state)
        shape << text(n(x(one.from) + (width / 2)), top + 11, label, dark ? "dark" : "inside", "middle") if label
        "<g><title>#{escape(words)}</title>#{shape.join}</g>"
      end

      # A word, a letter, or nothing.
      def label(state, width)
        word = STATES.fetch(state).split(",").first
        return word if width > (word.size * 6.5) + 6

        word[0] if width > 10
      end

      def ending(lane, top) = [silence(lane, top), jobs(lane, top)].compact

      def silence(lane, top)
        return unless lane.ending == :silent && lane.to < @timeline.to

        path("silent", "M#{x(lane.to) - 4} #{top + 3}l8 8m0 -8l-8 8")
      end

      def jobs(lane, top)
        words = costs(lane).join(", ")
        return if words.empty?

        names = [*lane.interrupted_jobs, *lane.lost_jobs].map(&:to_s)
        more = lane.interrupted + lane.lost - names.size
        names << "and #{more} more" if names.any? && more.positive?
        at = x(lane.to)
        side = at > RIGHT - 190 ? -1 : 1
        figure("jobs", [words, *names].join("; "), at + (side * 9), top + 12,
               [diamond(at, top - 1), text(at + (side * 9), top + 12, words, "bad", side == 1 ? "start" : "end")])
      end

      def curve
        most = [@timeline.ready.map(&:last).max, 1].max
        words = "#{@timeline.ready.last.last} ready now, #{most} at most"
        [text(LEFT - 8, curve_bottom - 4, "ready", "name", "end"),
         text(LEFT - 8, curve_bottom - CURVE + 20, most, "soft", "end"),
         path("line", "M#{LEFT} #{curve_bottom}H#{RIGHT}"),
         figure("ready-count", words, LEFT, curve_bottom - 4,
                [path("curve", "M#{LEFT} #{curve_bottom}#{steps(most)}H#{RIGHT}V#{curve_bottom}Z")])]
      end

      # A step for each change, and no more than one down and up in a column of the picture.
      def steps(most)
        columns = @timeline.ready.chunk_while { |one, other| x(one.first).floor == x(other.first).floor }
        columns.map do |column|
          counts = column.map(&:last)
          levels = [counts.min, counts.last].uniq.map { |count| n(curve_bottom - (count * (CURVE - 16).fdiv(most))) }
          "H#{x(column.first.first)}#{levels.map { |level| "V#{level}" }.join}"
        end.join
      end

      def axis
        span = @timeline.to - @timeline.from
        step = STEPS.find { |seconds| span / seconds <= TICKS } || STEPS.last
        first = (@timeline.from / step).ceil * step
        pattern = { 60 => "%H:%M:%S", 43_200 => "%H:%M" }.find { |limit,| step < limit }&.last || "%m-%d"
        ticks = (first..@timeline.to).step(step).map do |at|
          [path("line", "M#{x(at)} #{curve_bottom}v5"),
           text(x(at), curve_bottom + 18, Time.at(at).utc.strftime(pattern), "soft", centre(at))]
        end
        [*ticks, text(LEFT - 8, curve_bottom + 18, "UTC", "soft", "end")]
      end

      def legend
        left = 16
        top = curve_bottom + 34
        signs = STATES.map do |state, word|
          sign = [rect(state, left, top, 12, 11)]
          sign << %(<rect fill="url(#timeline-#{state})" #{box(left, top, 12, 11)}/>) if PATTERNS.key?(state)
          sign << text(left + 17, top + 10, word, "soft")
          left += 34 + (word.size * 6)
          sign
        end
        [*signs, diamond(left + 5, top - 2), text(left + 17, top + 10, "jobs interrupted or lost", "soft")]
      end

      # ---- SVG ----

      # A part that takes the focus, and says its figures.
      def figure(kind, words, left, top, parts, titled: true)
        words = escape(words)
        anchor = left > (LEFT + RIGHT) / 2 ? "end" : "start"
        %(<g class="#{kind}" tabindex="0" role="img" aria-label="#{words}">#{"<title>#{words}</title>" if titled}) +
          %(#{parts.join}<text class="figures" #{place(left, top, anchor)}>#{words}</text></g>)
      end

      def diamond(left, top) = path("loss", "M#{left} #{top}l6 8l-6 8l-6 -8Z")

      def pattern(state, shape)
        %(<pattern id="timeline-#{state}" width="6" height="6" patternUnits="userSpaceOnUse">#{shape}</pattern>)
      end

      def rect(kind, *frame) = %(<rect class="#{kind}" #{box(*frame)}/>)
      def box(left, top, width, height) = %(x="#{left}" y="#{top}" width="#{width}" height="#{height}")
      def path(kind, course) = %(<path class="#{kind}" d="#{course}"/>)
      def place(left, top, anchor) = %(x="#{n(left)}" y="#{top}" text-anchor="#{anchor}")

      def text(left, top, words, kind, anchor = "start")
        %(<text class="#{kind}" #{place(left, top, anchor)}>#{escape(words)}</text>)
      end

      # Words at the right border go to the left.
      def anchor(moment) = x(moment) > RIGHT - 120 ? "end" : "start"
      def centre(moment) = x(moment) > RIGHT - 24 ? "end" : "middle"
      def span(part) = "#{moment(part.from)} to #{moment(part.to)}"
      def moment(time) = Time.at(time).utc.strftime("%Y-%m-%d %H:%M:%S UTC")
      def shortened(words, size) = words.size > size ? "#{words[0, size - 1]}…" : words
      def escape(words) = CGI.escapeHTML(words.to_s)
    end
  end
end
