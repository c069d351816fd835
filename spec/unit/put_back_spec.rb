# frozen_string_literal: true

require "sidekiq_lifecycle/put_back"

RSpec.describe SidekiqLifecycle::PutBack do
  # What Redis was told, where every job is news. The real script is in spec/integration/recovery_spec.rb.
  let(:told) { [] }
  let(:config) { Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration : Sidekiq }

  before do
    allow(config).to receive(:redis).and_yield(nil)
    allow(SidekiqLifecycle::SidekiqCompat).to receive(:evaluate) do |_, _, _, arguments|
      told.concat(arguments)
      [1]
    end
  end

  def in_hand(payload, kept: false) = described_class::InHand.new(1, 0, kept, "queue:low", payload)

  def put_back(job, limit: 3)
    described_class.new(config, limit:, by: "tester").call("id", "process 7", [job]).first
  end

  # What a job says of itself, and what becomes of it.
  [
    ["a job", {}, :put_back, 1],
    ["one that was put back twice", { "lifecycle_put_back" => 2 }, :put_back, 3],
    ["one that was put back as often as allowed", { "lifecycle_put_back" => 3 }, :dead, 3],
    ["one that was put back more often", { "lifecycle_put_back" => 9 }, :dead, 9],
    ["one whose count is no number", { "lifecycle_put_back" => "x" }, :put_back, 1],
    ["one whose count cannot be one", { "lifecycle_put_back" => {} }, :put_back, 1]
  ].each do |name, fields, what, times|
    it "sends #{name} to #{what == :dead ? "the dead set" : "its queue"}" do
      outcome = put_back(in_hand(JSON.generate({ "class" => "Mail", "jid" => "a1" }.merge(fields))))
      expect([outcome.killed_job.outcome, outcome.times]).to eq([what, times])
    end
  end

  it "puts back nothing where no time is allowed" do
    expect(put_back(in_hand('{"class":"Mail"}'), limit: 0).killed_job.outcome).to eq(:dead)
  end

  it "leaves a job to a fetch that keeps its own copy" do
    expect(put_back(in_hand('{"class":"Mail"}', kept: true)).killed_job.outcome).to eq(:kept)
  end

  it "puts back unchanged what is no job" do
    %w({ [] null).each { |payload| expect(put_back(in_hand(payload)).killed_job.outcome).to eq(:put_back) }
    expect(told).to include("{", "[]", "null")
  end

  ['{"args":[1e400]}', "{\"args\":[\"\xFF\"]}", '{"args":[{"lifecycle_put_back":7,"x":1e400}]}'].each do |payload|
    it "changes only the count in what Ruby reads and cannot write: #{payload.inspect}" do
      counted = (1..3).reduce(payload) do |text, times|
        expect(put_back(in_hand(text)).times).to eq(times)
        told.reverse.find { |argument| argument.b.include?("args") }
      end
      expect(counted.b).to eq(payload.b.sub("{", '{"lifecycle_put_back":3,'))
      expect(put_back(in_hand(counted)).killed_job.outcome).to eq(:dead)
      dead = told.reverse.find { |argument| argument.b.include?("args") }.b
      expect(dead).to start_with('{"error_class":"SidekiqLifecycle::Killed",')
      expect(dead).to end_with(payload.b.delete_prefix("{"))
    end
  end

  it "says in the dead set why a job is there, and how many processes it has cost" do
    put_back(in_hand('{"class":"Mail","jid":"a1","lifecycle_put_back":3}'))
    dead = told.find { |text| text.include?("error_class") }
    reason = { "error_class" => "SidekiqLifecycle::Killed",
               "error_message" => "4 processes were killed while they ran it" }
    expect(JSON.parse(dead)).to include(reason)
  end

  it "sends nothing of the arguments to the history" do
    put_back(in_hand('{"class":"Mail","jid":"a1","args":["secret"]}'))
    history = told.find { |text| text.include?('"outcome"') }
    expect(JSON.parse(history)).to include("class" => "Mail", "queue" => "low", "process" => "process 7")
    expect(history).not_to include("secret")
  end
end
