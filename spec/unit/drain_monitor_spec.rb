# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::DrainMonitor do
  let(:native) { instance_double(SidekiqLifecycle::Native::Process, set_problem: nil, record_hindrances: nil) }
  let(:monitor) { described_class.new(nil, native) }
  let(:error) { IOError.new("gone\nfor good") }
  let(:managers) { [manager] }
  let(:launcher) { Struct.new(:managers, :poller) { def stopping? = true }.new(managers, nil) }

  before { allow(SidekiqLifecycle::SidekiqCompat).to receive(:managers) { |launcher| launcher ? managers : [] } }

  # Sidekiq's, as far as the monitor looks at it.
  def manager(workers: [], stopped: true)
    Struct.new(:workers, :stopped?).new(workers, stopped).tap do |manager|
      manager.instance_variable_set(:@plock, Mutex.new)
      manager.instance_variable_set(:@count, workers.size)
    end
  end

  def worker(job) = Struct.new(:job, :thread).new(job, nil)

  it "counts nothing at first" do
    expect([monitor.interrupted, monitor.lost_jobs, monitor.counts]).to eq([0, [], { cut_off: 0, lost: 0 }])
  end

  it "is not drained before Sidekiq has threads" do
    monitor.record_fetching_ended
    expect(monitor.drained?).to be(false)
    monitor.launcher = launcher
    expect(monitor.drained?).to be(true)
  end

  it "counts the jobs that are interrupted" do
    monitor.record_interrupted(manager(workers: [worker("a"), worker(nil), worker("b")]))
    monitor.record_interrupted(manager(workers: [worker("c")]))
    expect(monitor.interrupted).to eq(3)
    expect(monitor.counts).to eq(cut_off: 3, lost: 0)
  end

  it "reports lost jobs by class and jid" do
    monitor.launcher = launcher
    monitor.record_lost(error, { "class" => "Mail", "jid" => "a1" })
    one = "a job could not be pushed back to Redis and is lost (IOError: gone), so this process is not called " \
          "drained: Mail a1"
    expect(native).to have_received(:set_problem).with("lost_jobs", one)
    expect(native).to have_received(:record_hindrances).with(nil, one)
    ['{"class":"Wrapper","wrapped":"Import","jid":"b2"}', nil, "{"].each { |job| monitor.record_lost(error, job) }
    four = "4 jobs could not be pushed back to Redis and are lost (IOError: gone), so this process is not called " \
           "drained: Mail a1, Import b2, a job that is not JSON, 1 just fetched"
    expect(native).to have_received(:set_problem).with("lost_jobs", four)
    expect(monitor.lost_jobs)
      .to eq(["Mail a1", "Import b2", "a job that had just been fetched", "a job that is not JSON"])
  end

  it "does not report a job that was lost before Sidekiq was told to stop" do
    managers.replace([manager(stopped: false)])
    monitor.launcher = launcher
    monitor.record_lost(error, { "class" => "Mail", "jid" => "a1" })
    expect(monitor.lost_jobs).to eq([])
    expect(native).not_to have_received(:set_problem)
  end
end
