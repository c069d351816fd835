# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::Job do
  it "has no arguments, and is named for people" do
    payload = { "class" => "Wrapper", "wrapped" => "ReportJob", "jid" => "a1", "queue" => "low", "args" => ["secret"] }
    [payload, JSON.generate(payload)].each do |form|
      job = described_class.of(form)
      expect(job.to_h).to eq(class: "ReportJob", jid: "a1", queue: "low", running_for: nil)
      expect(job.to_s).to eq("ReportJob a1 (queue low)")
      expect(job.inspect + job.to_h.to_s).not_to include("secret")
    end
  end

  it "is known by what Sidekiq has fetched, and by how long it has been running" do
    unit = Struct.new(:queue, :job).new("queue:low", '{"class":"Mail","jid":"a1","queue":"other"}')
    expect(described_class.of_unit(unit) { |jid| 3723.4 if jid == "a1" }.to_s)
      .to eq("Mail a1 (queue low, running for 1 h 2 min)")
    expect(described_class.of_unit(unit).to_s).to eq("Mail a1 (queue low)")
  end

  it "is unknown, if what Sidekiq has fetched is no job" do
    [nil, "{", "[]", "1", '"a"'].each do |payload|
      expect(described_class.of(payload).name).to eq("a job whose name is not known")
    end
  end

  it "is read from a record, which may have anything in Redis" do
    now = Time.utc(2026, 1, 1, 12)
    read = ->(fields) { described_class.recorded(fields, now).to_s }
    fields = { "class" => "Mail", "jid" => "a1", "queue" => "low" }
    expect(read[fields.merge("started_at" => "2026-01-01T11:59:00Z")]).to eq("Mail a1 (queue low, running for 1 min)")
    expect(read[fields.merge("started_at" => "2026-01-01T12:59:00Z")]).to eq("Mail a1 (queue low, running for 0 s)")
    expect(read[fields.merge("running_for" => 2.0)]).to eq("Mail a1 (queue low, running for 2 s)")
    expect(read[fields.merge("running_for" => "2")]).to eq("Mail a1 (queue low)")
    [nil, 1, [], "Mail", { "started_at" => "noon" }].each do |garbage|
      expect(read[garbage]).to eq("a job whose name is not known")
    end
  end

  it "neither floods nor commands a terminal, and cannot be changed" do
    job = described_class.new(job_class: "\e[2JA#{"x" * 1000}", jid: :a1, queue: "a\nb")
    expect(job.to_s).to match(/\A \[2JAx{95} a1 \(queue a b\)\z/)
    expect(Ractor.shareable?(job)).to be(true)
  end
end
