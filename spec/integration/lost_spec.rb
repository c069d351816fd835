# frozen_string_literal: true

require "net/http"

# What operators see of jobs that a killed process had in hand.
RSpec.describe "the commands lost, fleet lost and fleet recover" do
  include FleetCommand

  let(:recover) { "lifecycle.recover_jobs = true" }
  let(:directory) { file("tmp/sidekiq") }

  def lost = command("lost")
  def lost_json = JSON.parse(command("lost", "--json").last)

  def kill(worker)
    Process.kill(:KILL, worker.pid)
    worker.exit_code
  end

  def kill_with_a_job(**options)
    start_ready(install: recover, **options).tap do |worker|
      start_job
      kill(worker)
    end
  end

  # Redis shows it as silent for more than a minute.
  def silence(identity)
    redis.call("DEL", identity, database: @database)
    redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", identity, database: @database)
  end

  def copies = redis.call("ZRANGE", "sidekiq_lifecycle:recorders", 0, -1, database: @database)

  def metrics(port)
    Net::HTTP.get(URI("http://127.0.0.1:#{port}/metrics"))
  rescue Errno::ECONNREFUSED
    "" # it boots
  end

  # Its job is in Redis, and nothing is left of its disk.
  def lose_a_machine
    worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
    start_job
    wait_until("it is copied") { copies.any? }
    kill(worker)
    FileUtils.rm_rf(directory)
    copies.first.tap { |identity| silence(identity) }
  end

  it "say that nothing is known where no process records its jobs" do
    start_ready
    nothing = "No process of #{directory} records its jobs, so it is not known whether any was lost; " \
              "set recover_jobs = true.\n"
    expect(lost).to eq([0, nothing])
    expect(lost_json).to include("recorded" => false, "jobs" => [])
  end

  it "name a job that waits, and say what to do, which helps" do
    worker = kill_with_a_job
    code, output = lost
    expect(code).to eq(1)
    expect(output).to match(/^#{DURATION} ago +#{worker.pid} +default +Evaluate \h{24} +waits to be put back$/)
    expect(lost_json["jobs"]).to match([include("class" => "Evaluate", "process" => "process #{worker.pid}",
                                                "outcome" => "waiting", "at" => nil)])
    expect(queued).to eq(0)
    arguments = output[/bundle exec sidekiq-lifecycle fleet (.*)$/, 1].split
    code, output = fleet(*arguments)
    expect(output).to match(/\Aprocess #{worker.pid} was killed while it had Evaluate \h{24}, which is at the head of/)
    expect([code, queued]).to eq([0, 1])
    expect(lost).to match([0, /Evaluate \h{24} +put back #{DURATION} ago\n\z/])
    expect(fleet(*arguments)).to eq([0, "no job of a killed process waits to be put back\n", ""])
  end

  it "are announced by stop --kill-after" do
    worker = start_ready(install: recover, timeout: 60)
    start_job
    code, said = command("stop", "--kill-after", "1s")
    line = "killed process #{worker.pid}: its running jobs wait in the flight recorder to be put back: #{named_job}"
    expect([code, said.lines.last]).to match([1, /\A#{line}\n\z/])
    expect(lost.first).to eq(1)
  end

  it "show what the next process has put back" do
    worker = kill_with_a_job
    release
    start(install: recover, name: "next")
    wait_for_note("job ends")
    wait_until("it is noted") { lost.first.zero? }
    expect(lost.last).to match(/#{worker.pid} +default +Evaluate \h{24} +put back #{DURATION} ago$/)
    expect(lost_json["jobs"]).to match([include("outcome" => "put_back", "by" => /:\h{12}\z/, "at" => /Z\z/)])
  end

  it "tell a recorder that cannot be read from one without jobs" do
    kill_with_a_job
    recorder = Dir[file("tmp/sidekiq/recorders/*-*")].first
    File.truncate(recorder, 5000)
    expect(lost).to match([1, /^#{recorder} cannot be read: it is damaged$/])
    damaged = { "name" => File.basename(recorder), "reason" => "it is damaged" }
    expect(lost_json["unreadable_recorders"]).to eq([damaged])
  end

  it "know what a machine that never comes back had in hand, and put it back where no process does" do
    identity = lose_a_machine
    expect(fleet_json("lost")["jobs"]).to match([include("process" => identity, "outcome" => "waiting", "at" => nil)])
    expect(fleet("lost").first).to eq(1)
    expect(fleet("recover", "--dry-run")).to match([0, /#{identity} +default +Evaluate \h{24} +waits/, ""])
    expect(queued).to eq(0)
    webhook = Webhook.new
    expect(fleet_json("recover", "--by", "ada", "--webhook", webhook.url)["jobs"])
      .to match([include("process" => identity, "outcome" => "put_back", "by" => "ada")])
    expect(webhook.messages).to match([include("event" => "recovered", "action" => "recover", "by" => "ada",
                                               "text" => /\Aada put back 1 job of a killed process:\n#{identity} was/)])
    expect(queued).to eq(1)
    expect(fleet("lost")).to match([0, /Evaluate \h{24} +put back #{DURATION} ago\n\z/, ""])
  ensure
    webhook&.stop
  end

  it "report a job that the process had not recorded whole when it was killed" do
    worker = kill_with_a_job
    # The state of the first block is "being written" (src/model/recorder.rs).
    File.binwrite(Dir[file("tmp/sidekiq/recorders/*-*")].first, [1].pack("Q<"), 4096)
    said = "#{worker.pid}: 1 job cannot be read, because the process was killed while it recorded"
    expect(lost.last).to include(said)
    expect(lost_json["unreadable_jobs"]).to eq(1)
    was = "process #{worker.pid} was killed in the moment when it fetched a job, which cannot be read and is lost\n"
    expect(fleet("recover", "--dir", directory)).to eq([1, was, ""])
    expect(lost).to match([0, /\ANo process of .* was killed while it had a job in hand/])
  end

  it "put nothing back of another user, and say so" do
    kill_with_a_job
    File.chown(4711, nil, Dir[file("tmp/sidekiq/recorders/*-*")].first)
    said = %r{\A#{directory}/recorders/\S+ cannot be read, so its jobs are not put back: it belongs to uid 4711\n\z}
    expect(fleet("recover", "--dir", directory)).to match([1, said, ""])
    expect(fleet_json("recover", "--dir", directory)).to match(include("jobs" => [], "warnings" => [/uid 4711/]))
    expect(queued).to eq(0)
  end

  it "put nothing back that somebody has put back already" do
    worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
    start_job
    wait_until("it is copied") { copies.any? }
    kill(worker)
    silence(copies.first)
    # It is in the recorder and in Redis.
    expect(fleet_json("recover", "--dry-run", "--dir", directory)["jobs"].size).to eq(1)
    expect(fleet_json("recover", "--dir", directory)["jobs"].size).to eq(1)
    expect(fleet_json("recover", "--dir", directory)["jobs"]).to eq([])
    expect(queued).to eq(1)
  end

  it "leave a process alone that lives" do
    start_ready(install: recover, before: QUICK_HEARTBEAT)
    start_job
    wait_until("it is copied") { copies.any? }
    redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", copies.first, database: @database)
    expect(fleet_json("recover", "--dir", directory)["jobs"]).to eq([])
    expect([queued, lost_json["jobs"]]).to eq([0, []])
    release
  end

  it "end with a sentence if Redis does not answer" do
    own_redis
    own_redis.stop
    %w[lost recover].each do |action|
      expect(fleet(action)).to match([1, "", /\Asidekiq-lifecycle: Redis does not answer: /])
    end
  end

  it "are joined by status, which knows what a stuck process works on" do
    hold_gvl(worker = start_ready(install: recover, before: RARE_HEARTBEAT))
    expect(command("status").last).to match(/^#{worker.pid}: running: #{named_job}$/)
    process = JSON.parse(command("status", "--json").last)["processes"].first
    expect(process["in_hand"]).to match([include("class" => "Evaluate", "queue" => "default")])
  end

  it "are joined by metrics" do
    kill_with_a_job
    port = RedisServer.free_port
    worker = start(install: "lifecycle.http = #{port}", before: QUICK_HEARTBEAT, name: "next")
    wait_until("it waits") { metrics(port).include?("\nsidekiq_lifecycle_waiting_jobs 1.0\n") }
    worker.signal(:TERM)
    worker.exit_code
    start(install: "lifecycle.http = #{port}; #{recover}", before: QUICK_HEARTBEAT, name: "third")
    wait_for_note("job begins")
    wait_until("it is counted") { metrics(port).match?(/^sidekiq_lifecycle_put_back_jobs\{.*\} 1.0$/) }
    expect(metrics(port)).to include("\nsidekiq_lifecycle_waiting_jobs 0.0\n")
    release
  end
end
