# frozen_string_literal: true

require "rexml/document"

RSpec.describe "a timeline" do
  def worker(name, started, ready, stopping = nil, stopped = nil)
    Timeline::Worker.new(name:, started:, ready:, stopping:, stopped:)
  end

  def job(pushed, began, worker) = Timeline::Job.new(pushed:, began:, worker:)

  def timeline(*workers, jobs: [job(-1.0, -0.9, "old")], **more)
    Timeline.new(title: "A <deploy>", workers:, jobs:, last: 10.0, **more)
  end

  old = ["old", -3.0, -2.0, 1.0, 2.0]

  it "has a gap where no worker was ready" do
    expect(timeline(worker(*old), worker("new", 1.0, 4.5)).gaps).to eq([1.0..4.5])
  end

  it "has none where one took over from the other, or outlasted it" do
    expect(timeline(worker(*old), worker("new", -1.0, 0.5)).gaps).to be_empty
    expect(timeline(worker("other", -3.0, -2.5), worker(*old), worker("new", 1.0, 4.5)).gaps).to be_empty
  end

  it "has several, one for each time" do
    middle = ["middle", 1.0, 2.0, 3.0, 4.0]
    expect(timeline(worker(*old), worker(*middle), worker("new", 3.0, 7.0)).gaps).to eq([1.0..2.0, 3.0..7.0])
  end

  it "counts who waited, and how long" do
    jobs = [job(0.0, 0.1, "old"), job(2.0, 5.0, "new"), job(3.0, 4.75, "new")]
    waited = timeline(worker(*old), worker("new", 1.0, 4.5), jobs:)
    expect(waited.longest_wait).to eq(3.0)
    expect(waited.stranded).to eq(jobs.last(2))
    expect(waited.waiting).to eq([[0.0, 1], [0.1, 0], [2.0, 1], [3.0, 2], [4.75, 1], [5.0, 0]])
  end

  describe "drawn" do
    let(:gap) { timeline(worker(*old), worker("new", 1.0, 4.5), marks: { "deploy begins" => 0.0 }) }
    let(:none) { timeline(worker(*old), worker("new", -1.0, 0.5)) }
    let(:picture) { REXML::Document.new(TimelinePicture.new([gap, none], title: "A & B", subtitle: "so").to_svg) }

    def shapes(kind) = REXML::XPath.match(picture, "//*[@class='#{kind}']")
    def words = REXML::XPath.match(picture, "//*[local-name()='text']").map(&:text)

    it "is an image with a title and a description, also for those who do not see it" do
      expect(picture.root.attributes["role"]).to eq("img")
      expect(picture.root.elements["title"].text).to eq("A & B")
      expect(picture.root.elements["desc"].text)
        .to eq("so. A <deploy>: no worker was ready for 3.5 s; the longest that a job waited: 100 ms. " \
               "A <deploy>: a worker was ready at every moment; the longest that a job waited: 100 ms.")
    end

    it "shades the gap and says how long it was" do
      expect(shapes("gap").size).to eq(1)
      expect(words).to include("3.5 s gap", "deploy begins")
    end

    it "has both on one axis, and nothing beyond its edges" do
      bars = shapes("ready").select { |bar| bar.attributes["height"] == TimelinePicture::BAR.to_s }
      firsts = bars.values_at(0, 2).map { |bar| bar.attributes["x"] }
      expect(firsts.uniq.size).to eq(1)
      edges = bars.map { |bar| bar.attributes["x"].to_f + bar.attributes["width"].to_f }
      expect(edges).to all(be_between(TimelinePicture::LEFT, TimelinePicture::RIGHT))
    end
  end
end
