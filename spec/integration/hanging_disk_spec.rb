# frozen_string_literal: true

# Reading the directory while it hangs would block the example too, so the examples do not read it then.
RSpec.describe "a lifecycle directory on a disk that hangs" do
  let(:directory) { file("tmp/sidekiq") }
  let(:late) do
    "#{directory} does not answer, so its contents are out of date; check its disk or mount"
  end

  before do
    missing = HangingDisk.missing
    skip missing if missing
    FileUtils.mkdir_p(directory)
    @disk = HangingDisk.new(directory)
  end

  after { @disk&.remove }

  def complaints(worker) = worker.log.scan(/WARN.*sidekiq_lifecycle: (.*)/).flatten

  # One thread: an idle one might take the job that is pushed back.
  def occupied(**options)
    start_ready(**options, concurrency: 1).tap do
      push("Sleep", 600)
      wait_until("the job begins") { notes.include?("sleep begins") }
    end
  end

  def quieted(worker)
    worker.signal(:TSTP)
    wait_until("it is quiet\n#{worker}") { worker.log.match?(/accepting new work|Terminating quiet threads/) }
  end

  # Sidekiq's last heartbeat in Redis.
  def last_heartbeat
    identity = redis.call("SMEMBERS", "processes", database: @database).first
    identity && redis.call("HGET", identity, "beat", database: @database).to_f
  end

  def let_heartbeats_pass
    3.times do
      before = wait_until("a heartbeat") { last_heartbeat }
      wait_until("the next heartbeat") { last_heartbeat > before }
    end
  end

  it "does not delay TERM" do
    worker = occupied(after: QUICK_HEARTBEAT, timeout: 1)
    @disk.hang
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(worker.log).to match(/Pushed 1 jobs? back to Redis/)
    expect(queued).to eq(1)
    expect(complaints(worker)).to include(late)
    @disk.go_on
    expect(check).to eq([1, "not ready: process #{worker.pid} is gone\n"])
  end

  # It waits for 5 s, and for no other work of the disk more than 200 ms.
  it "delays the start with recover_jobs, so that no job runs before it can be recorded" do
    asks = <<~RUBY
      SidekiqLifecycle::Native::Process.prepend(Module.new do
        def start_recorder(*)
          note "recorder wanted"
          sleep 0.01 until File.exist?("go")
          super
        end
      end)
    RUBY
    push("Evaluate", %(note "recorded: \#{SidekiqLifecycle::FlightRecorder.keeps?}"))
    start(install: "lifecycle.recover_jobs = true", after: asks)
    wait_for_note("recorder wanted")
    @disk.hang
    release
    sleep 1
    @disk.go_on
    wait_until("the job has run") { notes.grep(/recorded/).any? }
    expect(notes.grep(/recorded/)).to eq(["recorded: true"])
  end

  it "does not delay TSTP and then TERM, however rare the heartbeat" do
    worker = occupied(timeout: 1)
    @disk.hang
    quieted(worker)
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(queued).to eq(1)
    expect(complaints(worker)).to include(late)
  end

  it "does not delay a heartbeat, and is up to date once it works again" do
    worker = start_ready(after: QUICK_HEARTBEAT)
    @disk.hang
    let_heartbeats_pass
    push("Evaluate", "sleep 0.1 until (problems = SidekiqLifecycle.status.problems).any?; note problems.inspect")
    wait_until("a job sees it") { notes.any? }
    expect(notes).to eq([[late].inspect])
    wait_until("it is in the log") { complaints(worker).include?(late) }
    quieted(worker)
    let_heartbeats_pass
    @disk.go_on
    wait_until("no longer ready") { !worker.ready_file? }
    wait_until("drained") { File.exist?(drained_file) }
    wait_until("all is well") { problems_of(worker.pid).empty? }
    expect(record(worker.pid)).to include("state" => "quiet", "why" => "SIGTSTP")
    expect(check).to eq([1, "not ready: process #{worker.pid} is quiet\n"])
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0)
    expect(complaints(worker)).to eq([late])
  end

  it "does not delay the boot" do
    @disk.hang
    worker = start(after: QUICK_HEARTBEAT)
    push("Evaluate", 'note "works"')
    wait_until("it works") { notes.include?("works") || worker.raise_if_ended }
    @disk.go_on
    wait_until("ready") { worker.ready_file? }
    expect(check).to eq([0, "ready\n"])
    wait_until("all is well") { problems_of(worker.pid).empty? }
  end
end
