# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::DrainMonitor do
  let(:native) do
    answers = { set_problem: nil, record_hindrances: nil, record_unfinished: nil, running_for: 7.04 }
    instance_double(SidekiqLifecycle::Native::Process, **answers)
  end
  let(:logger) { instance_double(Logger, warn: true) }
  let(:monitor) { described_class.new(Struct.new(:logger).new(logger), native) }
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

  def worker(job)
    unit = Struct.new(:queue, :job).new("queue:low", job) if job
    Struct.new(:job, :thread).new(unit, nil)
  end

  it "counts nothing at first" do
    expect([monitor.interrupted, monitor.lost]).to eq([[], []])
  end

  it "is not drained before Sidekiq has threads" do
    monitor.record_fetching_ended
    expect(monitor.check).to eq([false, false])
    monitor.launcher = launcher
    expect(monitor.check).to eq([true, true])
  end

  it "names the jobs that are interrupted" do
    mail = worker('{"class":"Mail","jid":"a1","queue":"default","args":["secret"]}')
    monitor.record_interrupted(manager(workers: [mail, worker(nil)]), 25)
    monitor.record_interrupted(manager(workers: [worker("c")]), 25)
    monitor.record_interrupted(manager, 25)
    lines = ["Mail a1 (queue low, running for 7 s)", "a job whose name is not known (queue low)"].map do |job|
      "sidekiq_lifecycle: 1 job was still running after the shutdown timeout of 25 s and goes back to its queue: #{job}"
    end
    expect(logger).to have_received(:warn).with(lines.first).ordered
    expect(logger).to have_received(:warn).with(lines.last).ordered
    expect(monitor.interrupted.map(&:to_s))
      .to eq(["Mail a1 (queue low, running for 7 s)", "a job whose name is not known (queue low)"])
    expect(native).to have_received(:record_unfinished)
      .with('[{"class":"Mail","jid":"a1","queue":"low","running_for":7.0}]', "[]")
  end

  it "reports lost jobs by class and jid" do
    monitor.launcher = launcher
    monitor.record_lost(error, { "class" => "Mail", "jid" => "a1" })
    one = "a job could not be pushed back to Redis and is lost (IOError: gone), so this process does not count " \
          "as drained: Mail a1"
    expect(native).to have_received(:set_problem).with("lost_jobs", one)
    expect(native).to have_received(:record_hindrances).with(nil, one)
    ['{"class":"Wrapper","wrapped":"Import","jid":"b2"}', nil, "{"].each { |job| monitor.record_lost(error, job) }
    four = "4 jobs could not be pushed back to Redis and are lost (IOError: gone), so this process does not " \
           "count as drained: Mail a1, Import b2, a job whose name is not known, a job whose name is not known"
    expect(native).to have_received(:set_problem).with("lost_jobs", four)
    expect(monitor.lost.map(&:jid)).to eq(["a1", "b2", nil, nil])
  end

  it "says so if the jobs are kept" do
    allow(SidekiqLifecycle::FlightRecorder).to receive(:keeps?).and_return(true)
    monitor.launcher = launcher
    monitor.record_lost(error, { "class" => "Mail", "jid" => "a1" })
    kept = "a job could not be pushed back to Redis and waits in the flight recorder for the next process (IOError: " \
           "gone), so this process does not count as drained: Mail a1"
    expect(native).to have_received(:set_problem).with("lost_jobs", kept)
  end

  it "does not report a job that was lost before Sidekiq was told to stop" do
    managers.replace([manager(stopped: false)])
    monitor.launcher = launcher
    monitor.record_lost(error, { "class" => "Mail", "jid" => "a1" })
    expect(monitor.lost).to eq([])
    expect(native).not_to have_received(:set_problem)
  end
end
