# frozen_string_literal: true

require "sidekiq_lifecycle/fleet"

RSpec.describe SidekiqLifecycle::Fleet do
  # What a process publishes; `published` is what this gem adds.
  def process(listed: true, beat: "100.0", quiet: false, embedded: false, published: nil)
    info = { "hostname" => "worker-1", "pid" => 7, "embedded" => embedded }
    fields = { "info" => JSON.generate(info), "busy" => "0", "beat" => beat, "quiet" => quiet.to_s }
    published &&= { "state" => "running", "ready" => true, "drained" => false, "version" => "0.1.0",
                    "stops_when_drained" => false }.merge(published)
    described_class::Process.new("worker-1:7:abc", listed:, fields:, beat_age: 1.0,
                                                   published: published && JSON.generate(published))
  end

  running = { published: {} }
  quiet = { quiet: true, published: { "state" => "quiet" } }
  drained = { quiet: true, published: { "state" => "quiet", "drained" => true } }
  stopping = { quiet: true, published: { "state" => "stopping" } }
  knows = { quiet: true, published: { "state" => "quiet", "stops_when_drained" => true } }

  # What is asked, of which process, and why it is not asked of it.
  [
    ["quiet", "a running one", running, nil],
    ["quiet", "one without the gem", {}, nil],
    ["quiet", "a quiet one", quiet, "it is quiet already"],
    ["quiet", "one that has left", { listed: false }, "it is gone"],
    ["quiet", "a ghost", { beat: nil }, "it is gone"],
    ["quiet", "an embedded one", { embedded: true },
     "it runs inside another program, which alone can quiet and stop it"],
    ["drain_and_stop", "a running one", running, nil],
    ["drain_and_stop", "a quiet one", quiet, nil],
    ["drain_and_stop", "one that knows it", knows, "it stops by itself already"],
    ["drain_and_stop", "a stopping one", stopping, "it stops already"],
    ["drain_and_stop", "one without the gem", {}, "it does not have sidekiq_lifecycle, which alone can do that"],
    ["restart", "a drained one", drained, nil],
    ["restart", "a running one", running, "it is not quiet"],
    ["restart", "a quiet one", quiet, "it has not drained"],
    ["restart", "a stopping one", stopping, "it stops already"],
    ["restart", "a quiet one without the gem", { quiet: true },
     "it does not say whether it has drained; use fleet wake"]
  ].each do |request, whom, fields, refusal|
    it "#{refusal ? "does not ask" : "asks"} #{whom} for #{request}" do
      expect(described_class::Request.refusal(request, process(**fields))).to eq(refusal)
    end
  end

  # Whether a process is as quiet as it was told to be, and whether it was also told to stop once drained.
  [
    [running, false, false], [quiet, false, true], [quiet, true, false], [knows, true, true], [stopping, true, true],
    [running, true, false]
  ].each do |fields, then_stop, reached|
    it "#{reached ? "has reached" : "waits for"} quiet#{", then stop" if then_stop} with #{fields}" do
      tracker = described_class::GoalTracker.new(:quiet, [process(**fields)], then_stop:)
      expect(tracker.over?).to be(reached)
    end
  end
end
