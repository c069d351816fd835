# frozen_string_literal: true

require "socket"

RSpec.describe "a Sidekiq whose Ruby does not run" do
  # Before the gem is installed, which asks how often the heart beats.
  quick_heartbeat = "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}"

  # As systemd sets it: half of that is the longest silence of which nothing is said.
  def watched(seconds) = { "NOTIFY_SOCKET" => file("notify"), "WATCHDOG_USEC" => (seconds * 1_000_000).to_s }

  before do
    @socket = Socket.new(:UNIX, :DGRAM).tap { |socket| socket.bind(Addrinfo.unix(file("notify"))) }
    @reader = Thread.new { loop { @socket.recv(4096) } }
  end

  after do
    @reader.kill.join
    @socket.close
  end

  def silent?(worker) = problems_of(worker.pid).any? { |problem| problem.start_with?("Ruby has switched no") }
  def lines(worker, words) = worker.log.lines.grep(/#{words}/)

  it "names the jobs in hand while one holds Ruby's lock, and says afterwards for how long" do
    File.open(file("lock"), "w") do |lock|
      lock.flock(File::LOCK_EX)
      worker = start_ready(before: quick_heartbeat, environment: watched(4), concurrency: 2)
      push("Evaluate", "sleep 0.01 until File.exist?('go')")
      push("Evaluate", HOLD_GVL)
      wait_until("it says so in its record") { silent?(worker) }
      said = lines(worker, "Ruby has switched no threads")
      expect(said).to match([/\Asidekiq_lifecycle: .*native code\. Jobs in hand: Evaluate \h{24}, Evaluate \h{24};/])
      expect(command("status").last).to include("Ruby has switched no threads, and its heart has not beaten for")
      lock.flock(File::LOCK_UN)
      wait_until("it says that it is over") { lines(worker, "run again; its heart was silent for \\d+ s").any? }
      wait_until("its record says no more of it") { !silent?(worker) }
      expect(lines(worker, "Ruby has switched no threads").size).to eq(1)
      FileUtils.touch(file("go"))
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end
  end

  it "says nothing while its threads run and only its heart is silent" do
    slow = <<~RUBY
      #{quick_heartbeat}
      Sidekiq::Launcher.prepend(Module.new { def to_data = File.exist?('slow') ? sleep : super })
    RUBY
    worker = start_ready(before: slow, environment: watched(2))
    FileUtils.touch(file("slow"))
    beat = nil
    wait_until("its heart stands still") { beat == (beat = record(worker.pid)["beat"]).tap { sleep 3 } }
    expect(silent?(worker)).to be false
    expect(lines(worker, "switched no threads")).to be_empty
  end

  it "says nothing when it was stopped and is continued" do
    worker = start_ready(before: quick_heartbeat, environment: watched(2))
    worker.signal(:STOP)
    sleep 3
    worker.signal(:CONT)
    beat = record(worker.pid)["beat"]
    wait_until("it beats again") { record(worker.pid)["beat"] != beat }
    sleep 1.5
    expect(silent?(worker)).to be false
    expect(lines(worker, "switched no threads")).to be_empty
  end
end
