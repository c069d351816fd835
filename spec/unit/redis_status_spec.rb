# frozen_string_literal: true

require "sidekiq_lifecycle/redis_status"

RSpec.describe SidekiqLifecycle::RedisStatus do
  # Redis refuses the first pipeline with this message, and takes whatever follows.
  let(:redis) do
    Class.new do
      def initialize(refusal) = @refusal = refusal
      def sent = @sent ||= []

      def pipelined
        yield self
        refusal = @refusal
        @refusal = nil
        raise refusal if refusal

        [nil, nil]
      end

      def set(*) = sent << :status
      def get(*) = nil
      def zadd(*) = nil
      def zremrangebyscore(*) = nil
      def zrem(*) = nil
      def eval(*) = sent << :timeline
      def call_v(*) = nil
      def call(*) = sent << :timeline
    end
  end

  let(:status) do
    { version: "1", sidekiq_version: "8", state: :running, since: Time.at(0), ready?: true, drained?: false,
      timings: { booting: Time.at(0), running: Time.at(1) }, never_drains: nil, stops_when_drained?: false,
      company: nil, signal_path: nil }
  end

  # What two heartbeats have sent, and what the last one says is wrong.
  def publish_twice(refusal)
    client = redis.new(SidekiqLifecycle::SidekiqCompat.command_errors.first.new(refusal))
    published = described_class.new(instance_double(Struct.new(:redis)).tap do |config|
      allow(config).to receive(:redis).and_yield(client)
    end)
    problems = Array.new(2) do
      published.publish("a:1:f", Struct.new(*status.keys).new(*status.values), interrupted: [], lost: [])
    end
    [client.sent, problems.last]
  end

  it "tries the timeline again after a refusal that passes" do
    expect(publish_twice("OOM command not allowed when used memory > 'maxmemory'."))
      .to eq([%i[status timeline status status timeline], nil])
  end

  it "sends no timeline to a Redis that has none" do
    sent, problem = publish_twice("ERR unknown command 'XADD'")
    expect(sent).to eq(%i[status timeline status status])
    expect(problem).to include("Redis refuses the timeline of this process, which needs Redis 5")
  end
end
