# frozen_string_literal: true

require "sidekiq_lifecycle/job_copy"

RSpec.describe SidekiqLifecycle::JobCopy do
  include Waiting

  # Sidekiq's heartbeats: one lasts until the example lets it end, and then comes a pause.
  let(:launcher_class) do
    Class.new do
      def initialize(*phases) = @thread = Thread.new { start_heartbeat(*phases) }
      attr_reader :thread

      def start_heartbeat(*phases)
        phases.each(&:pop)
        sleep
      end
    end
  end

  let(:copy) { described_class.new(instance_double(Struct.new(:logger), logger: nil), nil, 3) }

  after { @launcher.thread.kill.join if @launcher }

  it "lets the next heartbeat come now in the pause between two" do
    @launcher = launcher_class.new
    wait_until("it pauses") { @launcher.thread.stop? }
    copy.hurry(@launcher)
    expect(@launcher.thread.join(Waiting::LIMIT)).not_to be_nil
  end

  it "lets another one follow a heartbeat that is on its way, and does not wake that" do
    heartbeat = Queue.new
    @launcher = launcher_class.new(heartbeat)
    wait_until("the heartbeat lasts") { heartbeat.num_waiting == 1 }
    copy.hurry(@launcher)
    expect(heartbeat.num_waiting).to eq(1)
    heartbeat << true
    expect(@launcher.thread.join(Waiting::LIMIT)).not_to be_nil
  end

  it "reads a job whatever bytes are in it" do
    payload = "{\"args\":[\"\xFF\n\"]}"
    redis = Object.new
    redis.define_singleton_method(:hgetall) { |_| { "recorder" => "ab", "7" => "12\nqueue:low\n#{payload}" } }
    config = instance_double(Struct.new(:redis)).tap { |one| allow(one).to receive(:redis).and_yield(redis) }
    kept = described_class::Copy.of(config, "a:1:f")
    job = SidekiqLifecycle::PutBack::InHand.new(7, 12, false, "queue:low", payload)
    expect(kept.to_a).to eq(["a:1:f", "ab", [job]])
  end

  it "has nobody to hurry before Sidekiq has launched, or after its end" do
    @launcher = launcher_class.new.tap { |launcher| launcher.thread.kill.join }
    [nil, @launcher].each { |launcher| expect(copy.hurry(launcher)).to be_nil }
  end
end
