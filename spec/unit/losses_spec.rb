# frozen_string_literal: true

require "sidekiq_lifecycle/losses"

RSpec.describe SidekiqLifecycle::Losses do
  let(:losses) { described_class.new }
  let(:error) { IOError.new("gone\nfor good") }

  it "are none at first" do
    expect([losses.none?, losses.problem, losses.words]).to eq([true, nil, []])
    expect(losses.counts).to eq(cut_off: 0, lost: 0)
  end

  it "are there, too, when nothing was in hand at Sidekiq's timeout" do
    losses.cut_off(0)
    expect([losses.none?, losses.words]).to eq([false, []])
  end

  it "are counted, and named by class and jid" do
    losses.cut_off(2)
    losses.cut_off(1)
    expect(losses.words).to eq(["3 cut off at Sidekiq's timeout"])
    losses.lose([{ "class" => "Mail", "jid" => "a1" }], error)
    expect(losses.problem).to eq("a job could not be pushed back to Redis and is lost (IOError: gone), so this " \
                                 "process is not called drained: Mail a1")
    losses.lose(['{"class":"Wrapper","wrapped":"Import","jid":"b2"}', nil, "{"], error)
    expect(losses.problem).to eq("4 jobs could not be pushed back to Redis and are lost (IOError: gone), so this " \
                                 "process is not called drained: Mail a1, Import b2, a job that is not JSON, " \
                                 "1 just fetched")
    expect(losses.words).to eq(["3 cut off at Sidekiq's timeout", "4 lost"])
  end
end
