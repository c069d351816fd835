# frozen_string_literal: true

require "cgi"

# Draws timelines as one SVG, one above the other on the same axis. It needs no font and no script, and is legible on
# white and on black, because its background follows the reader's colour scheme.
class TimelinePicture
  WIDTH = 800
  LEFT = 96
  RIGHT = 776
  TOP = 72
  # One timeline: its heading and result, a row for each worker, and the curve of the queue.
  HEADING = 64
  ROW = 38
  BAR = 20
  CURVE = 44
  PANEL_END = 26
  AXIS = 70

  STYLE = <<~CSS
    .paper { fill: #ffffff; stroke: #d0d7de }
    text { fill: #1f2328; font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
    .title { font-size: 17px; font-weight: 600 }
    .heading { font-size: 14px; font-weight: 600 }
    .soft { fill: #59636e; font-size: 12px }
    .inside { fill: #ffffff; font-size: 12px }
    .dark { fill: #1f2328; font-size: 12px }
    .bad { fill: #b42318; font-weight: 600 }
    .good { fill: #1a7f37; font-weight: 600 }
    .booting { fill: #d8dee4 }
    .ready { fill: #1a7f37 }
    .draining { fill: #bf8700 }
    .gap { fill: #d1242f; fill-opacity: .13 }
    .edge { stroke: #d1242f; stroke-opacity: .55 }
    .job { stroke: #0969da; stroke-width: 1.2 }
    .queue { fill: #0969da; fill-opacity: .22; stroke: #0969da; stroke-width: 1.2 }
    .line { stroke: #d0d7de }
    .mark { stroke: #59636e; stroke-dasharray: 3 3 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0d1117; stroke: #3d444d }
      text, .dark { fill: #f0f6fc }
      .soft { fill: #9198a1 }
      .inside { fill: #ffffff }
      .bad { fill: #ff7b72 }
      .good { fill: #3fb950 }
      .booting { fill: #3d444d }
      .ready { fill: #238636 }
      .draining { fill: #9e6a03 }
      .gap { fill: #f85149; fill-opacity: .2 }
      .edge { stroke: #f85149 }
      .job, .queue { stroke: #4493f8 }
      .queue { fill: #4493f8 }
      .line { stroke: #3d444d }
      .mark { stroke: #9198a1 }
    }
  CSS

  # @param timelines [Array<Timeline>]
  # @param title [String]
  # @param subtitle [String] the conditions
  def initialize(timelines, title:, subtitle:)
    @timelines = timelines
    @title = title
    @subtitle = subtitle
    @from = timelines.map(&:first).min.floor
    @to = timelines.map(&:last).max.ceil
    @most = [timelines.flat_map { |timeline| timeline.waiting.map(&:last) }.max, 1].max
  end

  # @return [String]
  def to_svg
    body = panels
    <<~SVG
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{WIDTH} #{@height}" width="#{WIDTH}" height="#{@height}" role="img" aria-labelledby="title desc">
      <title id="title">#{escape(@title)}</title>
      <desc id="desc">#{escape(description)}</desc>
      <style>
      #{STYLE.chomp}
      </style>
      #{body.join("\n")}
      </svg>
    SVG
  end

  # The same as text.
  # @return [String]
  def description = ["#{@subtitle}.", *@timelines.map { |one| "#{one.title}: #{verdict(one).last}." }].join(" ")

  private

  def panels
    top = TOP
    drawn = @timelines.map do |timeline|
      panel(timeline, top).tap { top += HEADING + (timeline.workers.size * ROW) + CURVE + PANEL_END }
    end
    @height = top + AXIS
    [%(<rect class="paper" x=".5" y=".5" width="#{WIDTH - 1}" height="#{@height - 1}" rx="8"/>),
     text(24, 34, @title, "title"), text(24, 54, @subtitle, "soft"), *drawn, axis(top)]
  end

  def panel(timeline, top)
    kind, words = verdict(timeline)
    rows = top + HEADING
    bottom = rows + (timeline.workers.size * ROW) + CURVE
    [text(24, top + 16, timeline.title, "heading"), text(24, top + 35, words, kind),
     *timeline.gaps.map { |gap| gap(gap, timeline, rows - 8, bottom) },
     *marks(timeline, rows - 8, bottom),
     *timeline.workers.each_with_index.map { |worker, row| worker(worker, timeline, rows + (row * ROW)) },
     curve(timeline, bottom)]
  end

  def verdict(timeline)
    wait = "the longest that a job waited: #{seconds(timeline.longest_wait)}"
    return ["good", "a worker was ready at every moment; #{wait}"] if timeline.gaps.empty?

    ["bad", "no worker was ready for #{seconds(length(timeline))}; #{wait}"]
  end

  def length(timeline) = timeline.gaps.sum { |gap| gap.end - gap.begin }

  # The length of the gap is printed beside the worker that still drains.
  def gap(gap, timeline, top, bottom)
    from, to = [gap.begin, gap.end].map { |at| x(at) }
    free = timeline.workers.filter_map(&:stopped).select { |at| gap.cover?(at) }.map { |at| x(at) }.max || from
    [%(<rect class="gap" x="#{from}" y="#{top}" width="#{n(to - from)}" height="#{bottom - top}"/>),
     line(from, top, from, bottom, "edge"), line(to, top, to, bottom, "edge"),
     text(n((free + to) / 2), top + 22, "#{seconds(gap.end - gap.begin)} gap", "bad", "middle")]
  end

  def worker(worker, timeline, top)
    stopping = worker.stopping || timeline.last
    bars = [["booting", worker.started, worker.ready, "dark"], ["ready", worker.ready, stopping, "inside"]]
    bars << ["draining", stopping, worker.stopped, "inside"] if worker.stopped
    ticks = timeline.jobs.select { |job| job.worker == worker.name }.map do |job|
      "M#{x(job.began)} #{top + BAR + 3}v7"
    end
    [text(24, top + 15, worker.name, "dark"), *bars.map { |bar| bar(*bar, top) },
     %(<path class="job" d="#{ticks.join}"/>)]
  end

  def bar(kind, from, to, label, top)
    left = [x(from), LEFT].max
    width = x(to) - left
    return [] unless width.positive?

    words = text(n(left + (width / 2)), top + 14, kind, label, "middle") if width > kind.size * 7
    [%(<rect class="#{kind}" x="#{left}" y="#{top}" width="#{n(width)}" height="#{BAR}" rx="2"/>), words]
  end

  # A step for each change.
  def curve(timeline, bottom)
    scale = (CURVE - 10).fdiv(@most)
    path = timeline.waiting.map { |at, count| "H#{x(at)}V#{n(bottom - (count * scale))}" }
    at, most = timeline.waiting.max_by(&:last)
    words = text(n(x(at) - 6), bottom - CURVE + 6, "#{most} jobs", "soft", "end") if most > 9
    [text(24, bottom - 4, "waiting", "dark"),
     line(LEFT, bottom, RIGHT, bottom, "line"),
     %(<path class="queue" d="M#{x(timeline.first)} #{bottom}#{path.join}V#{bottom}Z"/>), words]
  end

  def marks(timeline, top, bottom)
    timeline.marks.map do |words, at|
      [line(x(at), top, x(at), bottom, "mark"), text(x(at), top - 4, words, "soft", "middle")]
    end
  end

  def axis(top)
    ticks = (@from..@to).select { |second| (second % 5).zero? }.map do |second|
      [line(x(second), top, x(second), top + 5, "line"), text(x(second), top + 20, second, "soft", "middle")]
    end
    [line(LEFT, top, RIGHT, top, "line"), *ticks, text(24, top + 20, "seconds", "soft"), legend(top + 50)]
  end

  def legend(top)
    words = [["booting", "booting"], ["ready", "ready for jobs"], ["draining", "told to stop, finishing its jobs"],
             ["job", "a job begins"], ["queue", "jobs that wait"]]
    left = LEFT
    words.map do |kind, label|
      sign = if kind == "job"
               %(<path class="job" d="M#{left + 3} #{top - 9}v9M#{left + 8} #{top - 9}v9"/>)
             else
               %(<rect class="#{kind}" x="#{left}" y="#{top - 10}" width="12" height="11" rx="2"/>)
             end
      [sign, text(left + 18, top, label, "soft")].tap { left += 40 + (label.size * 6) }
    end
  end

  def x(at) = n(LEFT + ((at - @from) * (RIGHT - LEFT) / (@to - @from).to_f))
  def n(number) = number.round(1)
  def seconds(number) = number < 0.95 ? "#{(number * 1000).round} ms" : "#{number.round(1)} s"
  def escape(words) = CGI.escapeHTML(words.to_s)
  def line(*from, to_x, to_y, kind) = %(<path class="#{kind}" d="M#{from.join(" ")}L#{to_x} #{to_y}"/>)

  def text(left, top, words, kind, anchor = "start")
    %(<text x="#{left}" y="#{top}" class="#{kind}" text-anchor="#{anchor}">#{escape(words)}</text>)
  end
end
