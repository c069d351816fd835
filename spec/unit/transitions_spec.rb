# frozen_string_literal: true

require "sidekiq_lifecycle/transitions"

RSpec.describe SidekiqLifecycle::Transitions do
  let(:status) { Struct.new(:state, :timings, :ready?) }
  let(:transitions) { described_class.new }

  # What a heartbeat has to say.
  def beat(ready:, at:)
    timings = { booting: Time.at(0), running: Time.at(1) }
    transitions.news("a:1:f", status.new(:running, timings, ready), now: Time.at(at)).tap do |news|
      transitions.written(news)
    end
  end

  it "says each change once, however many there have been" do
    25.times { |number| beat(ready: number.even?, at: 10 + number) }
    expect(beat(ready: true, at: 50).changes).to be_empty
    expect(beat(ready: false, at: 51).changes).to eq([[:unready, 51_000]])
  end
end
