# frozen_string_literal: true

require "sidekiq_lifecycle/flight_recorder"

RSpec.describe SidekiqLifecycle::FlightRecorder do
  let(:work) { Struct.new(:queue, :job, :lifecycle_token).new("queue:default", "{}") }
  let(:pair) { Socket.pair(:UNIX, :STREAM) }
  let(:socket) { pair.first }
  let(:other) { pair.last }
  let(:calls) { [] }

  # The core, which waits with the given result.
  def core(awaited)
    calls = self.calls
    native = Object.new
    native.define_singleton_method(:start_recorder) { |_threads| nil }
    native.define_singleton_method(:await_job) { |*| awaited.is_a?(Proc) ? awaited.call : awaited }
    native.define_singleton_method(:record_job) { |*arguments| calls.push([:record, *arguments]) && 7 }
    native.define_singleton_method(:clear_job) { |token| calls << [:clear, token] }
    described_class.instance_variable_set(:@native, native)
    # The first fetch of a thread finds its socket.
    Thread.current[SidekiqLifecycle::ReplyWatch::KEY] = nil
  end

  before do
    pool = ConnectionPool.new(size: 1) { :redis }
    allow(SidekiqLifecycle::SidekiqCompat).to receive_messages(redis_pool: pool, socket:)
  end

  after { described_class.remove_instance_variable(:@native) }

  def fetch(&block) = described_class.fetch(:fetcher, &block)

  it "confirms a job that was recorded when its reply came" do
    core(3)
    result = fetch { socket.wait_readable(5) && work }
    expect([result, work.lifecycle_token, calls]).to eq([work, 7, [[:record, "queue:default", "{}", false, 3]]])
  end

  it "records a job whose reply it did not wait for" do
    core(3)
    fetch { work }
    expect(calls).to eq([[:record, "queue:default", "{}", false, nil]])
  end

  it "clears a job that the fetch did not return, because something else has dealt with it" do
    core(3)
    expect(fetch { socket.wait_readable(5) && nil }).to be_nil
    expect(calls).to eq([[:clear, 3]])
  end

  it "clears a job that somebody has put into a unit of work of their own" do
    core(3)
    foreign = Struct.new(:queue, :job).new("queue:default", "{}")
    expect(fetch { socket.wait_readable(5) && foreign }).to be(foreign)
    expect(calls).to eq([[:clear, 3]])
  end

  it "clears a job after which the fetch went on, because something else has dealt with it" do
    core(3)
    fetch { 2.times { socket.wait_readable(5) } && work }
    expect(calls).to eq([[:clear, 3], [:record, "queue:default", "{}", false, 3]])
  end

  it "keeps a job that the fetch lost in an error" do
    core(3)
    expect { fetch { socket.wait_readable(5) && raise(Sidekiq::Shutdown) } }.to raise_error(Sidekiq::Shutdown)
    expect(calls).to eq([])
    fetch { nil }
    expect(calls).to eq([])
  end

  it "raises what the fetch would if Redis cannot be reached, and asks only once" do
    core(3)
    allow(SidekiqLifecycle::SidekiqCompat).to receive(:connect).and_raise(Errno::ECONNREFUSED)
    expect { fetch { raise "asked twice" } }.to raise_error(Errno::ECONNREFUSED)
  end

  it "fetches as ever where there is no such socket" do
    core(3)
    allow(SidekiqLifecycle::SidekiqCompat).to receive(:socket).and_raise(NoMethodError)
    expect(fetch { work }).to equal(work)
    allow(SidekiqLifecycle::SidekiqCompat).to receive(:redis_pool).and_raise(NoMethodError)
    expect(fetch { work }).to equal(work)
  end

  # What the core says, whether there is something in the socket, and what a client for Redis hears.
  {
    "a job" => [3, false, true],
    "something else" => [true, false, true],
    "nothing in that time" => [false, true, false],
    "an interruption, and waits itself" => [nil, true, true],
    "an error, and waits itself" => [-> { raise IOError }, true, true]
  }.each do |what, (awaited, written, readable)|
    it "tells Redis' client of #{what}" do
      core(awaited)
      other.write("x") if written
      heard = nil
      fetch { (heard = socket.wait_readable(0)) && nil }
      expect(heard ? true : false).to be(readable)
    end
  end

  # Where the machine was busy, for instance.
  describe "made late" do
    let(:work) do
      unit = Struct.new(:queue, :job) { def acknowledge = nil }
      Class.new(unit) { prepend SidekiqLifecycle::FlightRecorder::UnitOfWork }.new("queue:default", "{}")
    end
    let(:recorder_id) { [nil] }

    before do
      core(nil)
      ids = recorder_id
      described_class.instance_variable_get(:@native).define_singleton_method(:recorder_id) { ids.last }
      described_class.instance_variable_set(:@late_looks, 2)
    end

    after { described_class.remove_instance_variable(:@late_looks) }

    it "records what was fetched before, once there is one" do
      described_class.catch_up { raise "too early" }
      recorder_id << "f00"
      described_class.catch_up { nil }
      2.times { described_class.catch_up { [work, Object.new] } }
      described_class.catch_up { raise "again" }
      work.acknowledge
      expect(calls).to eq([[:record, "queue:default", "{}", false, nil], [:clear, 7]])
    end

    it "does not keep what ends meanwhile" do
      recorder_id << "f00"
      work.acknowledge
      described_class.catch_up { [work] }
      expect(calls).to eq([[:record, "queue:default", "{}", false, nil], [:clear, 7]])
    end

    it "finds a job that was on its way to its thread at the first look" do
      recorder_id << "f00"
      described_class.catch_up { [] }
      described_class.catch_up { [work] }
      expect(work.lifecycle_token).to eq(7)
    end

    it "does not keep what is in its queue again" do
      recorder_id << "f00"
      described_class.clear_all([work])
      described_class.catch_up { [work] }
      expect(calls.last).to eq([:clear, 7])
    end

    it "leaves alone what is recorded" do
      recorder_id << "f00"
      work.lifecycle_token = 5
      described_class.catch_up { [work] }
      expect(calls).to be_empty
    end
  end

  it "waits for other replies as ever" do
    core(3)
    fetch { nil }
    expect(socket.wait_readable(0)).to be_nil
  end
end
