# frozen_string_literal: true

require "socket"

RSpec.describe "a Sidekiq whose Ruby does not run" do
  # Set before the gem is installed, because the gem reads it then.
  quick_heartbeat = "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}"

  # As systemd sets it. A silence of up to half of that is not reported.
  def watched(seconds) = { "NOTIFY_SOCKET" => file("notify"), "WATCHDOG_USEC" => (seconds * 1_000_000).to_s }

  before do
    @socket = Socket.new(:UNIX, :DGRAM).tap { |socket| socket.bind(Addrinfo.unix(file("notify"))) }
    @reader = Thread.new { loop { @socket.recv(4096) } }
  end

  after do
    @reader.kill.join
    @socket.close
  end

  def silent?(worker) = problems_of(worker.pid).any? { |problem| problem.start_with?("Ruby has had no") }
  def lines(worker, words) = worker.log.lines.grep(/#{words}/)

  it "names the running jobs while one holds the GVL, and logs afterwards for how long" do
    worker = start_ready(before: quick_heartbeat, environment: watched(20), concurrency: 2)
    start_job
    lock = hold_gvl(worker)
    wait_until("its record reports it") { silent?(worker) }
    said = lines(worker, "Ruby has had no heartbeat")
    expect(said).to match([/\Asidekiq_lifecycle: .*the GVL\. Running jobs: Evaluate \h{24}, Evaluate \h{24};/])
    expect(command("status").last).to include("Ruby has had no heartbeat for")
    lock.close
    wait_until("it logs the end") { lines(worker, "run again after #{DURATION} without a heartbeat").any? }
    wait_until("its record no longer reports it") { !silent?(worker) }
    expect(lines(worker, "Ruby has had no heartbeat").size).to eq(1)
    release
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
  end

  it "reports nothing while its threads run and only the heartbeat is missing" do
    slow = <<~RUBY
      #{quick_heartbeat}
      Sidekiq::Launcher.prepend(Module.new { def to_data = File.exist?('slow') ? sleep : super })
    RUBY
    worker = start_ready(before: slow, environment: watched(20))
    FileUtils.touch(file("slow"))
    beat = nil
    wait_until("the heartbeat is missing") { beat == (beat = record(worker.pid)["beat"]).tap { sleep 12 } }
    expect(silent?(worker)).to be false
    expect(lines(worker, "switches no threads")).to be_empty
  end

  it "reports nothing when it was suspended and is continued" do
    worker = start_ready(before: quick_heartbeat, environment: watched(20))
    worker.signal(:STOP)
    sleep 12
    worker.signal(:CONT)
    beat = record(worker.pid)["beat"]
    wait_until("the next heartbeat") { record(worker.pid)["beat"] != beat }
    sleep 1.5
    expect(silent?(worker)).to be false
    expect(lines(worker, "switches no threads")).to be_empty
  end
end
