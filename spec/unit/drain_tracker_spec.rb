# frozen_string_literal: true

require "sidekiq_lifecycle/drain_tracker"

RSpec.describe SidekiqLifecycle::DrainTracker do
  # What Sidekiq's threads look like once all of them have ended; an example changes what is different.
  def threads(stopped: true, alive: 0, abandoned: 0)
    described_class::Threads.new(stopped:, alive:, abandoned:)
  end

  # Records what happened, in that order.
  def tracker(*events)
    described_class.new.tap { |tracker| events.each { |name, *arguments| tracker.public_send(name, *arguments) } }
  end

  quieted = [:record_fetching_ended]
  timed_out = ->(count) { [:record_interrupted, [:job] * count] }
  let(:quieted) { quieted }
  let(:timed_out) { timed_out }

  # What happened; what the threads look like now; the verdict.
  [
    ["nothing has happened yet", [], { stopped: false, alive: 5 }, :fetching],
    ["idle, but still fetching", [], { stopped: false }, :fetching],
    ["the managers have stopped, the scheduler may still push jobs", [], {}, :fetching],
    ["quiet before the threads exist", [quieted], nil, :not_started],
    ["a manager has not stopped", [quieted], { stopped: false }, :not_stopped],
    ["quiet with one thread that finishes its job", [quieted], { alive: 1 }, :threads_alive],
    ["quiet with many such threads", [quieted], { alive: 25 }, :threads_alive],
    ["a thread died without finishing its job", [quieted], { abandoned: 1 }, :jobs_abandoned],
    ["one thread alive, the other dead with a job", [quieted], { alive: 1, abandoned: 1 }, :threads_alive],
    ["quiet, and every thread has ended", [quieted], {}, :drained],
    ["quieted twice", [quieted, quieted], {}, :drained],
    ["a job was still running at the shutdown timeout", [quieted, timed_out[1]], {}, :jobs_interrupted],
    ["the jobs ended just at the shutdown timeout", [quieted, timed_out[0]], {}, :jobs_interrupted],
    ["one of two managers timed out", [quieted, timed_out[0], timed_out[3]], {}, :jobs_interrupted],
    ["the shutdown timeout passed before the scheduler ended", [timed_out[2]], {}, :jobs_interrupted],
    ["interrupted before the threads exist", [timed_out[2]], nil, :jobs_interrupted]
  ].each do |what, events, now, verdict|
    it "says #{verdict.inspect} if: #{what}" do
      tracker = tracker(*events)
      now &&= threads(**now)
      expect(tracker.verdict(now)).to eq(verdict)
      expect(tracker.drained?(now)).to be(verdict == :drained)
    end
  end

  describe "with a lost job" do
    def lose(jobs, *events, quiet: true)
      tracker(*events).tap { |tracker| tracker.record_lost(jobs, quiet:) }
    end

    it "is never drained, if the process was quiet" do
      expect(lose([:job], quieted).verdict(threads)).to eq(:jobs_lost)
    end

    it "reports the loss rather than the shutdown timeout" do
      expect(lose([:job], quieted, timed_out[1]).verdict(threads)).to eq(:jobs_lost)
    end

    it "is drained all the same, if that was before it went quiet" do
      tracker = lose([:job], quiet: false)
      tracker.record_fetching_ended
      expect(tracker.verdict(threads)).to eq(:drained)
      expect(tracker.lost).to be_empty
    end

    it "is drained, if there was none to push back" do
      expect(lose([], quieted).verdict(threads)).to eq(:drained)
    end
  end

  it "follows a process: jobs end one by one, and drained is the last step" do
    tracker = tracker(quieted)
    verdicts = [2, 1, 0].map { |alive| tracker.verdict(threads(alive:)) }
    expect(verdicts).to eq(%i[threads_alive threads_alive drained])
  end

  it "lists interrupted and lost jobs of all managers" do
    tracker = tracker(timed_out[2], timed_out[1])
    tracker.record_lost([:job], quiet: true)
    tracker.record_lost(%i[other third], quiet: true)
    expect(tracker.interrupted).to eq(%i[job job job])
    expect(tracker.lost).to eq(%i[job other third])
  end

  # Whether anything is left to wait for, which a process that can never drain does not have either.
  [
    ["nothing has happened yet", [], { stopped: false, alive: 5 }, false],
    ["still fetching", [], {}, false],
    ["quiet before the threads exist", [quieted], nil, false],
    ["a manager has not stopped", [quieted], { stopped: false }, false],
    ["a thread finishes its job", [quieted], { alive: 1 }, false],
    ["every thread has ended", [quieted], {}, true],
    ["every thread has ended, one in the middle of a job", [quieted], { abandoned: 1 }, true],
    ["jobs were interrupted", [quieted, timed_out[1]], {}, true]
  ].each do |what, events, now, over|
    it "is#{" not" unless over} over if: #{what}" do
      expect(tracker(*events).over?(now && threads(**now))).to be(over)
    end
  end
end
