# frozen_string_literal: true

require "sidekiq_lifecycle/killed_job"

RSpec.describe SidekiqLifecycle::KilledJob do
  let(:line) do
    { class: "Mail", jid: "a1", queue: "low", process: "process 7", outcome: "put_back", by: "web-1:9:ab",
      started_at: "2026-11-27T06:00:00.000Z", at: "2026-11-27T06:10:00.000Z" }
  end

  it "survives Redis" do
    job = described_class.parse(JSON.generate(line))
    expect(job.to_h).to eq({ **line, outcome: :put_back })
    expect(described_class.parse(JSON.generate(job.to_h)).to_h).to eq(job.to_h)
    expect(job).to be_frozen
  end

  it "is not what nobody of this gem writes" do
    lines = ["", "[]", "null", "7", "{}", JSON.generate(line.merge(outcome: "eaten")), JSON.generate(line.merge(at: 7)),
             JSON.generate(line.merge(at: "soon")), "\xFF"]
    expect(lines.map { |text| described_class.parse(text) }).to all(be_nil)
  end

  # What became of it, how many seconds ago, and in words.
  [
    [:waiting, nil, "waits to be put back"],
    [:put_back, 130, "put back 2 min 10 s ago"],
    [:put_back, nil, "put back"],
    [:put_back, -60, "put back 0 s ago"],
    [:dead, 130, "in the dead set for 2 min 10 s"],
    [:kept, 130, "its fetch keeps a copy"]
  ].each do |outcome, age, words|
    it "#{words.inspect} is #{outcome}#{", #{age} s ago" if age}" do
      now = Time.now
      allow(Time).to receive(:now).and_return(now)
      job = described_class.new(job: SidekiqLifecycle::Job.new, process: "process 7", outcome:, at: age && (now - age))
      expect([job.outcome_in_words, job.waiting?]).to eq([words, outcome == :waiting])
    end
  end
end
