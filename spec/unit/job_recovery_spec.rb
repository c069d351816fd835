# frozen_string_literal: true

require "sidekiq_lifecycle/job_copy"
require "sidekiq_lifecycle/job_recovery"

RSpec.describe SidekiqLifecycle::JobRecovery do
  let(:config) { Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration : Sidekiq }
  let(:log) { [] }
  let(:forgotten) { [] }
  let(:marked) { [] }
  let(:failure) { ArgumentError.new("a defect") }
  # What comes before that.
  let(:errors) { [] }
  let(:recovery) { described_class.new(config, native, 3) }

  # The core finds the same recorders at each heartbeat, until they are forgotten.
  let(:native) do
    found = recorders
    gone = forgotten
    Object.new.tap do |native|
      native.define_singleton_method(:take_left_behind) { found.reject { |name,| gone.include?(name) } }
      native.define_singleton_method(:forget_left_behind) { |name| gone << name }
      native.define_singleton_method(:note_outcome) { |_| nil }
    end
  end

  before do
    allow(config).to receive(:redis).and_yield(instance_double(Struct.new(:ping), ping: "PONG"))
    allow(config).to receive(:logger).and_return(instance_double(Logger).tap do |logger|
      allow(logger).to receive(:warn) { |line| log << line }
    end)
    allow(SidekiqLifecycle::SidekiqCompat).to receive(:evaluate) do |_, _, keys, arguments|
      raise errors.shift || failure if arguments.include?("poison")

      marked << [keys.first, arguments[7]]
      [1]
    end
  end

  def recorder(id, payload, days: 0, torn: 0)
    jobs = payload ? [[1, 0, false, "queue:low", payload]] : []
    ["7-#{id}", id, 7, (Time.now.to_f - (days * 86_400)) * 1000, torn, jobs, true]
  end

  context "with several" do
    let(:recorders) { %w[ab cd ef].map { |id| recorder(id, '{"class":"Mail","jid":"a1"}') } }

    it "waits once for the connections of killed processes to close" do
      allow(described_class).to receive(:settle)
      2.times { recovery.call }
      expect(described_class).to have_received(:settle).once
      expect(forgotten.size).to eq(3)
    end
  end

  context "with one that is too old" do
    let(:recorders) { [recorder("ab", '{"class":"Mail","jid":"a1"}', days: 29)] }

    it "says so once" do
      3.times { recovery.call }
      expect([log.size, forgotten]).to eq([1, []])
    end
  end

  context "with one that cannot be put back" do
    let(:recorders) { [recorder("ab", "poison"), recorder("cd", '{"class":"Mail","jid":"c1"}')] }

    it "says so once, and puts back the others" do
      3.times { recovery.call }
      expect(log.grep(/cannot put back what process 7 had in hand \(.*a defect\)/).size).to eq(1)
      expect(forgotten).to eq(["7-cd"])
    end

    context "because Redis refuses it" do
      let(:refusal) { SidekiqLifecycle::SidekiqCompat.command_errors.first }
      let(:errors) { [refusal.new("LOADING Redis is loading the dataset in memory")] }
      let(:failure) { refusal.new("WRONGTYPE Operation against a key holding the wrong kind of value") }

      it "tries again while that passes, says it once where it lasts, and puts back the others" do
        4.times { recovery.call }
        expect(log.grep(/LOADING.*trying again at each heartbeat/).size).to eq(1)
        expect(log.grep(/cannot put back what process 7 had in hand \(.*WRONGTYPE/).size).to eq(1)
        expect(forgotten).to eq(["7-cd"])
      end
    end
  end

  context "with one without jobs" do
    let(:recorders) { [recorder("ab", nil), recorder("cd", nil, torn: 1)] }

    it "marks it as whole if it is, so that a copy in Redis counts no more" do
      recovery.call
      expect(marked).to eq([["sidekiq_lifecycle:put_back:ab", "1"], ["sidekiq_lifecycle:put_back:cd", "0"]])
    end
  end
end
