# frozen_string_literal: true

require "sidekiq_lifecycle/fleet"
require "sidekiq_lifecycle/fleet/timeline_svg"
require "sidekiq_lifecycle/fleet/cli/timeline_text"
require "rexml/document"

RSpec.describe SidekiqLifecycle::Fleet::Timeline do
  # A life as in "b0 r3 q60 d70 s71 e72"; without an end it runs.
  def changes(words)
    words.split.map do |word|
      letter, at = word.split("", 2)
      [SidekiqLifecycle::Transitions::LETTERS.key(letter), at.to_f]
    end
  end

  def timeline(lives, living: nil, **options)
    lives = lives.transform_values { |words| changes(words) }
    living ||= lives.reject { |_, life| life.any? { |state,| state == :ended } }.keys
    living = living.to_h { |name| [name, nil] } if living.is_a?(Array)
    described_class.new(lives, from: 0, to: 100, living:, **options)
  end

  def segments(lane) = lane.segments.map(&:to_a)
  def gaps(timeline) = timeline.gaps.map { |gap| [gap.from, gap.to, gap.lasts] }

  describe "a lane" do
    {
      "b0 r3" => [[:booting, 0, 3], [:ready, 3, 100]],
      "b0 r3 q60 d70 s71 e72" => [[:booting, 0, 3], [:ready, 3, 60], [:draining, 60, 70], [:drained, 70, 71],
                                  [:stopping, 71, 72]],
      # What drains while it stops is stopping.
      "b0 r3 s60 d70 e72" => [[:booting, 0, 3], [:ready, 3, 60], [:stopping, 60, 72]],
      "b0 u3 r9 u12" => [[:booting, 0, 3], [:unready, 3, 9], [:ready, 9, 12], [:unready, 12, 100]],
      # Redis no longer has its beginning.
      "q60 d70" => [[:unknown, 0, 60], [:draining, 60, 70], [:drained, 70, 100]]
    }.each do |life, states|
      it "is #{states.map(&:first).join(", ")} after #{life}" do
        expect(segments(timeline({ "a:1:f" => life }).lanes.first)).to eq(states)
      end
    end

    it "shows only what happened in the time that was asked for" do
      only = described_class.new({ "a:1:f" => changes("b0 r3 s60 e72"), "b:1:f" => changes("b0 r1 s2 e3") },
                                 from: 10, to: 100)
      expect(only.lanes.map { |lane| [lane.name, segments(lane)] })
        .to eq([["a:1", [[:ready, 10, 60], [:stopping, 60, 72]]]])
    end

    it "ends at the last heartbeat of a process that fell silent" do
      lane = timeline({ "a:1:f" => "b0 r3" }, living: [], beats: { "a:1:f" => 42.0 }).lanes.first
      expect([lane.ending, segments(lane).last]).to eq([:silent, [:ready, 3, 42]])
    end

    it "is unknown for a process without the gem" do
      expect(segments(timeline({}, living: { "a:1:f" => 20.0 }).lanes.first)).to eq([[:unknown, 20, 100]])
    end

    it "knows how long it drained" do
      drains = { "b0 r1 q10 d25 s40 e41" => 15, "b0 r1 s10 d12 e13" => 2, "b0 r1 s10 e18" => 8, "b0 r1" => nil }
      drains.each { |life, seconds| expect(timeline({ "a:1:f" => life }).lanes.first.drain).to eq(seconds) }
    end
  end

  describe "moments without a ready worker" do
    {
      "none in a deploy without a gap" => [["b0 r3 s60 e65", "b40 r50"], []],
      "one between two workers" => [["b0 r3 s60 e65", "b61 r72"], [[60, 72, false]]],
      "one that lasts" => [["b0 r3 s60 e65"], [[60, 100, true]]],
      "none before the first worker is ready" => [["b0 r50"], []],
      "none where one ends as the other begins" => [["b0 r3 s60 e65", "b50 r60"], []],
      "one while the only worker is running, but not ready" => [["b0 r3 u20 r30"], [[20, 30, false]]],
      # A worker that is ready by now may not have said so yet.
      "none at the very end, which is not complete yet" => [["b0 r3 s95 e96"], []]
    }.each do |what, (lives, expected)|
      it what do
        expect(gaps(timeline(lives.each_with_index.to_h { |life, number| ["a:#{number}:f", life] }))).to eq(expected)
      end
    end

    it "claims none while a process without the gem runs" do
      expect(gaps(timeline({ "a:1:f" => "b0 r3 s60 e65" }, living: { "b:1:f" => 50.0 }))).to be_empty
      expect(gaps(timeline({ "a:1:f" => "b0 r3 s60 e65" }, living: { "b:1:f" => 80.0 }))).to eq([[60, 80, false]])
    end

    {
      "one that began before" => [["b61 r72"], 5, [[10, 72, false]]],
      "one that began before and lasts" => [["b61"], 5, [[10, 100, true]]],
      "none if nothing is known of the time before" => [["b61 r72"], 20, []],
      "none if a worker was ready before" => [["b0 r3 s80 e85", "b61 r72"], 5, []]
    }.each do |what, (lives, known_from, expected)|
      it what do
        lives = lives.each_with_index.to_h { |life, number| ["a:#{number}:f", changes(life)] }
        living = lives.reject { |_, life| life.any? { |state,| state == :ended } }.transform_values { nil }
        expect(gaps(described_class.new(lives, from: 10, to: 100, living:, known_from:))).to eq(expected)
      end
    end

    it "is cut to the time that was asked for" do
      lives = { "a:1:f" => changes("b0 r3 s60 e65"), "b:1:f" => changes("b61 r72") }
      only = described_class.new(lives, from: 70, to: 100, living: { "b:1:f" => nil })
      expect(gaps(only)).to eq([[70, 72, false]])
    end
  end

  it "counts the ready processes" do
    expect(timeline({ "a:1:f" => "b0 r3 s60 e65", "b:1:f" => "b40 r60" }).ready)
      .to eq([[0, 0], [3, 1], [60, 1]])
  end

  it "sums up what matters" do
    job = { "class" => "ReportJob", "jid" => "1a", "queue" => "reports", "running_for" => 12.5 }
    one = timeline({ "a:1:f" => "b0 r3 s60 e65", "b:1:f" => "b61 r72", "c:1:f" => "b70 r71" },
                   living: ["b:1:f"], beats: { "c:1:f" => 80.0 },
                   jobs: { "a:1:f" => { "interrupted" => 7, "interrupted_jobs" => [job],
                                        "lost" => 0, "lost_jobs" => [] } })
    expect(one.summary).to eq(
      ["longest moment without a ready worker: 11 s, at 1970-01-01T00:01:00.000Z", "longest drain: 5 s (a:1)",
       "7 jobs interrupted: ReportJob 1a (queue reports, running for 12 s)", "fell silent, as if killed: c:1"]
    )
    expect(one.brief).to include(interrupted: 7, lost: 0, longest_drain: { process: "a:1:f", seconds: 5 })
    expect(timeline({ "a:1:f" => "b0 r3" }).summary).to eq(["a worker was ready at every moment"])
    expect(timeline({ "a:1:f" => "b0" }).summary).to eq(["nothing is known of a ready worker"])
  end

  it "survives whatever is in Redis" do
    jobs = { "a:1:f" => { "interrupted" => "many", "lost_jobs" => { "x" => 1 }, "interrupted_jobs" => [7, nil] } }
    one = timeline({ "a:1:f" => "e5 b9 r3" }, jobs:)
    expect(one.lanes.map(&:interrupted)).to eq([0])
    expect(SidekiqLifecycle::Transitions.load("b1000 z7 r r2 rr3 \u0000 d4000"))
      .to eq([[:booting, 1.0], [:ready, 0.002], [:drained, 4.0]])
  end

  describe "its picture" do
    let(:lives) { { "<b>&\"'\e[31m:1:f" => "b0 r3 s60 e65", "b:1:f" => "b61 r72" } }
    let(:jobs) do
      { lives.keys.first => { "interrupted" => 3, "interrupted_jobs" => [{ "class" => "<Job>", "jid" => "1a" }] } }
    end
    let(:picture) do
      SidekiqLifecycle::Fleet::TimelineSvg.new(timeline(lives, jobs:, marks: [[60.0, "<i>v2</i>"]]), styled: false).to_s
    end
    let(:document) { REXML::Document.new(picture) }

    def titles = REXML::XPath.match(document, "//*[local-name()='title']").map(&:text)

    it "is XML, whatever the names are" do
      expect(picture).not_to match(/<b>|<i>|<Job>|\e/)
      expect(titles).to include("3 jobs interrupted; <Job> 1a; and 2 more", "deploy <i>v2</i>, 1970-01-01 00:01:00 UTC")
    end

    it "says how many are ready now" do
      expect(picture).to include("1 ready now, 1 at most")
    end

    it "has no style or script of its own in a page, and one in a file" do
      expect(picture).not_to match(/<style|<script|style=|onfocus/)
      expect(SidekiqLifecycle::Fleet::TimelineSvg.new(timeline(lives)).to_s).to include("<style>")
    end

    it "says each state, and each moment without a ready worker with its length" do
      expect(titles).to include("no worker was ready for 12 s: 1970-01-01 00:01:00 UTC to 1970-01-01 00:01:12 UTC",
                                "booting for 11 s: 1970-01-01 00:01:01 UTC to 1970-01-01 00:01:12 UTC")
      gap = REXML::XPath.first(document, "//*[@class='without-ready']")
      expect(gap.attributes["tabindex"]).to eq("0")
    end

    it "draws some lanes of many, those that have cost jobs among them" do
      many = Array.new(500) { |number| ["w#{number}:1:f", "b0 r3"] }.to_h
      one = SidekiqLifecycle::Fleet::TimelineSvg.new(timeline({ **many, **lives }, jobs:), styled: false).to_s
      drawn = REXML::XPath.match(REXML::Document.new(one), "//*[@class='lane']").map { |lane| lane.attributes["aria-label"] }
      expect(drawn.size).to eq(60)
      expect(drawn.grep(/3 jobs interrupted/).size).to eq(1)
      expect(one).to include("442 more processes counted, but not drawn")
    end
  end

  it "is printed as letters, in colour only where that is wanted" do
    one = timeline({ "a:1:f" => "b0 r10 s60 e70", "b:1:f" => "b61 r80" })
    text = SidekiqLifecycle::Fleet::CLI::TimelineText.new(one, colour: false).to_s
    expect(text).to match(/^a:1 +b+=+s+$/).and match(/^b:1 +b+=+$/).and match(/^ready 0+1+0+1+$/)
    expect(text).not_to include("\e")
    expect(SidekiqLifecycle::Fleet::CLI::TimelineText.new(one, colour: true).to_s).to include("\e[32m=")
  end
end
