# frozen_string_literal: true

RSpec.describe "drain, then exit" do
  include FleetCommand

  def occupy(jobs: 1)
    jobs.times { |n| push("Evaluate", %(note "#{n} begins"; sleep 0.02 until File.exist?("go"); note "#{n} ends")) }
    wait_until("the jobs run") { notes.grep(/begins/).size == jobs }
  end

  def expect_drained_exit(worker, why)
    expect(worker.exit_code).to eq(0)
    expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0, "why" => why, "drained" => true,
                                          "stops_when_drained" => why, "interrupted_jobs" => 0)
    expect([queued, retries]).to eq([0, 0])
  end

  describe "quiet --then-stop" do
    it "returns at once, and the process ends by itself when it has finished its jobs" do
      worker = start_ready(after: RARE_HEARTBEAT)
      occupy(jobs: 2)
      expect(command("quiet", "--then-stop"))
        .to eq([0, "sent SIGTSTP to process #{worker.pid}; it stops when it has drained\n"])
      wait_until("it knows") { record(worker.pid)["stops_when_drained"] == "quiet --then-stop" }
      expect(command("status").last).to match(/^#{worker.pid} +quiet, then stops /)
      release
      expect_drained_exit(worker, "quiet --then-stop")
      expect(notes.grep(/ends/).size).to eq(2)
      expect(Dir.children(file("tmp/sidekiq/processes"))).to eq([worker.pid.to_s])
    end

    it "ends one that has drained already, or has nothing to do" do
      quiet = start(name: "quiet", after: QUICK_HEARTBEAT)
      idle = start(name: "idle", after: RARE_HEARTBEAT)
      running = ->(worker) { record(worker.pid)&.fetch("state") == "running" || worker.raise_if_ended }
      [quiet, idle].each { |worker| wait_until("ready") { running.call(worker) } }
      expect(command("quiet", "--pid", quiet.pid, "--wait").first).to eq(0)
      code, said = command("quiet", "--then-stop", "--wait")
      expect([code, said.lines.last]).to match([0, /\Astopped after #{DURATION}: 2 processes \(\d+, \d+\)\n\z/])
      [quiet, idle].each { |worker| expect_drained_exit(worker, "quiet --then-stop") }
    end

    it "stays in effect if the wait for it ends too early" do
      worker = start_ready(after: RARE_HEARTBEAT)
      occupy
      worker.signal(:TSTP)
      wait_until("quiet and busy") { record(worker.pid).values_at("state", "busy") == ["quiet", 1] }
      code, said = command("quiet", "--then-stop", "--wait", "--timeout", "1s")
      expect(code).to eq(124)
      expect(said.lines.last)
        .to match(/\Atimed out after 1 s, not stopped: process \d+ is quiet, 1 job still running: /)
        .and end_with("; it still stops when it has drained: to keep waiting, run sidekiq-lifecycle wait stopped\n")
      waiting = Thread.new { command("wait", "stopped") }
      release
      expect(waiting.value.first).to eq(0)
      expect_drained_exit(worker, "quiet --then-stop")
    end

    it "ends one that can never drain as well, which pushes its job back" do
      worker = start_ready(concurrency: 2, after: QUICK_HEARTBEAT)
      push("Evaluate", %(note "dies"; Thread.exit))
      wait_until("a thread has died") { notes.include?("dies") }
      expect(command("quiet", "--then-stop").first).to eq(0)
      expect(worker.exit_code).to eq(0)
      expect(record(worker.pid)).to include("drained" => false, "why" => "quiet --then-stop", "interrupted_jobs" => 1)
      expect(queued).to eq(1)
    end
  end

  describe "SidekiqLifecycle.drain_and_exit" do
    it "lets a job end its process: it and its neighbours finish, and nothing more is taken" do
      worker = start_ready(concurrency: 2, after: RARE_HEARTBEAT)
      occupy
      push("Evaluate", %(SidekiqLifecycle.drain_and_exit; note "returned"))
      wait_until("it was called") { notes.include?("returned") }
      wait_until("it is quiet") { record(worker.pid)["state"] == "quiet" }
      release
      expect_drained_exit(worker, "drain_and_exit")
      expect(notes).to eq(["0 begins", "returned", "0 ends"])
    end

    it "is for a Sidekiq only" do
      sentence = "this process is not a Sidekiq with sidekiq_lifecycle"
      expect { SidekiqLifecycle.drain_and_exit }.to raise_error(SidekiqLifecycle::Error, sentence)
    end
  end

  describe "exit_when_idle" do
    it "ends a process that has had no job for so long, and none that has one" do
      worker = start_ready(after: QUICK_HEARTBEAT, install: "lifecycle.exit_when_idle = 5")
      occupy
      beats = -> { Time.iso8601(record(worker.pid)["beat"]) }
      begun = beats.call
      wait_until("it has had a job for longer") { beats.call - begun > 6 || worker.raise_if_ended }
      expect(record(worker.pid)["state"]).to eq("running")
      release
      expect_drained_exit(worker, "exit_when_idle")
      expect(worker.log).to include("sidekiq_lifecycle: there was no job for 5 s, so this process drains and exits")
    end
  end

  describe "fleet quiet --then-stop" do
    def start_listed(**options)
      worker = start(**options, after: QUICK_HEARTBEAT)
      wait_until("it is listed") { identity_of(worker) || worker.raise_if_ended }
      return worker if options[:gem] == false

      wait_until("it is published as running") { published(worker)["state"] == "running" }
      worker
    end

    it "returns when all know it, and they end by themselves when they have finished their jobs" do
      worker = start_listed
      occupy
      code, out, = fleet("quiet", "--then-stop", "--dry-run")
      expect([code, out]).to match([0, /would be told to be quiet, and to stop once drained/])
      code, out, = fleet("quiet", "--then-stop")
      expect([code, out]).to match([0, /\A1 of 1 quiet after/])
      known = { "stops_when_drained" => true, "state" => "quiet" }
      expect(fleet_json("status")["processes"]).to match([a_hash_including(known)])
      release
      expect_drained_exit(worker, "fleet quiet --then-stop")
    end

    it "ends those that have drained already" do
      workers = %w[one two].map { |name| start_listed(name:) }
      expect(fleet("quiet", "--wait", "--timeout", "10m").first).to eq(0)
      code, out, err = fleet("quiet", "--then-stop", "--wait", "--timeout", "10m")
      expect([code, out]).to match([0, /\A2 of 2 stopped after/]), err
      workers.each { |worker| expect_drained_exit(worker, "fleet quiet --then-stop") }
    end

    it "sends nothing if a process cannot do that" do
      start_listed
      plain = start_listed(name: "plain", gem: false)
      code, out, = fleet("quiet", "--then-stop")
      expect(code).to eq(1)
      sentence = "1 process cannot stop once drained, because that needs sidekiq_lifecycle in it: "
      expect(out).to match(/#{sentence}\S+:#{plain.pid}; leave it out with --except, or run fleet stop --drain-first/)
      expect(fleet_json("status")["processes"].map { |process| process["quiet"] }).to eq([false, false])
    end
  end
end
