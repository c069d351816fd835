# frozen_string_literal: true

RSpec.describe "with Redis" do
  before { own_redis }

  # What must be true after every end: no sentinel is left, and the record says how the process ended.
  def expect_recorded_end(worker, directory: file("tmp/sidekiq"))
    status = worker.exit_code
    expect(Dir.children(directory)).to eq(["processes"])
    ended = JSON.parse(File.read(File.join(directory, "processes", worker.pid.to_s)))
    expect(ended).to include("state" => "stopped", "exit_status" => status)
    expect(command("status", "--dir", directory).last).to match(/^#{worker.pid} +stopped .*exit #{status}/)
    ended
  end

  # The scheduler first polls Redis after some seconds, and then every second.
  def poll_each_second
    Sandbox::MAJOR > 6 ? "config[:poll_interval_average] = 1" : "config.options[:poll_interval_average] = 1"
  end

  # Starts a job that runs until the file `ends` is there.
  def hold
    before = jids.size
    push("Evaluate", 'note("jid " + jid); sleep 0.01 until File.exist?("ends")')
    wait_until("a job begins") { jids.size > before }
  end

  it "gone before the boot, a Sidekiq exits with 1 and the reason, and was never ready" do
    redis.stop
    worker = start(after: "SidekiqLifecycle.on(:running) { note 'running' }")
    expect(expect_recorded_end(worker)["why"]).to match(/Connect.*Error: .*[Cc]onnect/)
    expect(worker.exit_code).to eq(1)
    expect(notes).to be_empty
    expect(record(worker.pid)["timings"].keys).to contain_exactly("booting", "stopped")
  end

  # In the first 10 to 15 seconds the scheduler of 6.5 and later calls Redis as it ends, and Sidekiq does not rescue the
  # error.
  it "gone right after the start, TERM and TSTP lead to a correctly recorded end" do
    stopped, quieted = %w[stopped quieted].map do |name|
      start(name:, environment: { "SIDEKIQ_LIFECYCLE_DIR" => "life/#{name}" })
    end
    [stopped, quieted].zip(%w[stopped quieted]) do |worker, name|
      wait_until("ready") { File.exist?(file("life", name, "ready")) || worker.raise_if_ended }
    end
    redis.stop
    stopped.signal(:TERM)
    quieted.signal(:TSTP)
    wait_until("it is no longer ready") { command("check", "ready", "--dir", file("life/quieted")).first == 1 }
    expect(File).not_to exist(file("life/quieted/ready"))
    quieted.signal(:TERM)
    ended = [expect_recorded_end(stopped, directory: file("life/stopped")),
             expect_recorded_end(quieted, directory: file("life/quieted"))]
    expect(ended).to all(include("exit_status" => 0, "why" => "SIGTERM", "problems" => []))
  end

  it "gone when the scheduler first polls, the scheduler survives, and a later stop loses nothing" do
    worker = start_ready(install: poll_each_second, after: <<~RUBY)
      require "sidekiq/scheduled"
      Sidekiq::Scheduled::Poller.prepend(Module.new do
        def initial_wait
          sleep 0.01 until File.exist?("go")
          super
        ensure
          note "has looked"
        end
      end)
    RUBY
    redis.stop
    release
    wait_until("the scheduler has polled") { notes.include?("has looked") }
    redis.start
    job = { class: "Sleep", args: [0], jid: SecureRandom.hex(12), queue: "default", retry: true }
    redis.call("ZADD", "schedule", "1", JSON.generate(job), database: @database)
    wait_until("a scheduled job is done") { notes.include?("sleep ends") }
    hold
    worker.signal(:TSTP)
    wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
    FileUtils.touch(file("ends"))
    wait_until("drained") { File.exist?(drained_file) }
    worker.signal(:TERM)
    expect(expect_recorded_end(worker)).to include("exit_status" => 0, "drained" => true, "problems" => [])
  end

  describe "when jobs are pushed back" do
    let(:interrupted) { { "why" => "SIGTERM", "interrupted_jobs" => 1, "lost_jobs" => [] } }
    # Enough time for a slow machine.
    let(:patient) { "SidekiqLifecycle::BulkRequeue.tap { |it| it.send(:remove_const, :PATIENCE) }::PATIENCE = 60" }
    let(:ways) do
      { "gone" => [-> { redis.stop }, -> { redis.start }],
        "full" => [-> { redis.call("CONFIG", "SET", "maxmemory", "1") },
                   -> { redis.call("CONFIG", "SET", "maxmemory", "0") }] }
    end

    %w[gone full].each do |way|
      it "#{way} and back in time, they return to their queue" do
        goes, comes = ways.fetch(way)
        worker = start_ready(timeout: 3, concurrency: 1, after: patient)
        hold
        goes.call
        worker.signal(:TERM)
        wait_until("it tries again") { worker.log.include?("cannot push a job back") || worker.raise_if_ended }
        comes.call
        expect(expect_recorded_end(worker)).to include(interrupted.merge("problems" => []))
        expect([queued, worker.exit_code]).to eq([1, 0])
        expect(worker.log).to include("Pushed 1 jobs back to Redis")
      end

      it "#{way} for good, stop reports how many are lost, and the status names them" do
        worker = start_ready(timeout: 3, concurrency: 2)
        2.times { hold }
        ways.fetch(way).first.call
        code, said = command("stop")
        expect(code).to eq(1)
        two = Regexp.union(jids.permutation.map { |pair| /#{pair.map { |jid| named_job(jid) }.join(", ")}/ })
        expect(said.lines.last).to match(/: 2 jobs interrupted at Sidekiq's shutdown timeout: #{two}; /)
        expect(said).to match(/#{worker.pid}: 2 jobs lost, because Redis did not take them back: #{two}$/)
        ended = expect_recorded_end(worker)
        expect(ended).to include("why" => "SIGTERM", "interrupted_jobs" => 2, "drained" => false)
        expect(ended["lost_jobs"]).to match_array(jids.map { |jid| "Evaluate #{jid}" })
        lost = /\A2 jobs could not be pushed back to Redis and are lost \(.*Error: .*\), .*: (.*)\z/
        expect(Sandbox.messages(ended).filter_map { |problem| problem[lost, 1] }.first).to match(/\A#{two}\z/)
        expect(ended["jobs"]["lost"].map { |job| job.slice("class", "jid", "queue") })
          .to match_array(jids.map { |jid| { "class" => "Evaluate", "jid" => jid, "queue" => "default" } })
        expect(command("status").last).to include("2 lost").and match(/^#{worker.pid}: lost: #{two}$/)
        expect(worker.log.scan("2 jobs could not be pushed back").size).to eq(1)
        expect(worker.log).not_to match(/sidekiq_lifecycle: (beat|heartbeat|push_back)/)
      end
    end

    it "gone, a custom fetch handles them itself" do
      own = "config.options[:fetch] = OwnFetch.new(config.options)"
      own = "config[:fetch_class] = OwnFetch" if Sandbox::MAJOR > 6
      worker = start_ready(timeout: 3, concurrency: 1, install: own, before: <<~RUBY)
        require "sidekiq"
        require "sidekiq/fetch"
        class OwnFetch
          def initialize(about) = @basic = Sidekiq::BasicFetch.new(about)
          def retrieve_work = @basic.retrieve_work
          def bulk_requeue(jobs, *) = jobs.any? && note("keeps \#{jobs.size}")
        end
      RUBY
      hold
      redis.stop
      worker.signal(:TERM)
      expect(expect_recorded_end(worker)).to include(interrupted.merge("problems" => []))
      expect(notes).to include("keeps 1")
      expect(worker.log).not_to match(/cannot push .* back/)
    end
  end

  # Sidekiq's heartbeat comes every 5 s (6.x) or 10 s, and counts even if it does not reach Redis.
  it "gone for more than a heartbeat and back, a Sidekiq stays live and ready, and keeps working" do
    worker = start_ready
    started = Time.now
    sleep 5
    redis.stop
    beats = [record(worker.pid)["beat"]]
    wait_until("two heartbeats") do
      beat = record(worker.pid)["beat"]
      beats << beat if beat != beats.last
      beats.size > 2
    end
    sleep [20 - (Time.now - started), 0].max
    expect(worker.log).to match(/heartbeat: .*[Cc]onnect/)
    expect(check).to eq([0, "ready\n"])
    expect(check("live")).to eq([0, "live\n"])
    expect(File).to exist(ready_file)
    expect(record(worker.pid)).to include("state" => "running", "problems" => [])

    redis.start
    push("Sleep", 0)
    wait_until("a job is done") { notes.include?("sleep ends") }
    expect(check).to eq([0, "ready\n"])
    worker.signal(:TERM)
    expect(expect_recorded_end(worker)["why"]).to start_with("SIGTERM")
  end

  it "gone while a job runs, TERM leads to a correctly recorded end" do
    worker = start_ready(timeout: 2)
    push("Sleep", 60)
    wait_until("the job begins") { notes.include?("sleep begins") }
    redis.stop
    worker.signal(:TERM)
    wait_until("it is no longer ready") { !worker.ready_file? }
    expect(expect_recorded_end(worker)).to include("drained" => false)
  end

  it "gone or hanging at the stop, the gem sends Redis nothing more, and logs no error of its hooks" do
    announces = 'SidekiqLifecycle::RedisStatus.prepend(Module.new { def publish(...) = (note("announces"); super) })'
    %i[freeze_process stop].each do |goes|
      FileUtils.rm_f(file("notes"))
      client = "config.redis = { url: #{redis.url(@database).inspect}, network_timeout: 1 }"
      worker = start_ready(install: client, timeout: 3, after: announces, name: goes.to_s)
      wait_until("it is announced") { notes.include?("announces") }
      redis.public_send(goes)
      before = notes.count("announces")
      worker.signal(:TERM)
      expect_recorded_end(worker)
      expect(notes.count("announces")).to eq(before)
      expect(worker.log).not_to match(/sidekiq_lifecycle: (beat|heartbeat)/)
      redis.thaw_process if redis.pid
    end
  end

  it "full, a process that lost a job is not drained, and reports why" do
    worker = start_ready(concurrency: 1, after: "SidekiqLifecycle.on(:drained) { note 'drained' }")
    push("Evaluate", %(note "begins"; sleep 0.01 until File.exist?("go"); raise "no"))
    wait_until("the job begins") { notes.include?("begins") }
    redis.call("CONFIG", "SET", "maxmemory", "1")
    worker.signal(:TSTP)
    wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
    release
    lost = /\Aa job could not be pushed back to Redis and is lost \(.*OOM/
    wait_until("it is reported") { problems_of(worker.pid).grep(lost).any? || worker.raise_if_ended }
    wait_until("its thread has ended") { record(worker.pid)["busy"].zero? }
    expect(retries).to eq(0)
    expect(worker.log.scan("sidekiq_lifecycle: a job could not be pushed back").size).to eq(1)
    expect(command("status").last).to include("a job could not be pushed back to Redis")
    expect(command("wait", "drained")).to match([1, /\Anot drained: .* is quiet, and can never drain: a job could not/])
    worker.signal(:TERM)
    worker.exit_code
    expect(notes).to eq(["begins"])
    expect(record(worker.pid)).to include("drained" => false)
  end

  it "working, Sidekiq's own API quiets and stops a remote process" do
    worker = start_ready
    remote = lambda do |call|
      code = <<~RUBY
        Sidekiq.configure_client { |config| config.redis = { url: #{redis.url(@database).inspect} } }
        sleep 0.05 until (processes = Sidekiq::ProcessSet.new.to_a).any?
        processes.each(&:#{call})
      RUBY
      expect(system(RbConfig.ruby, "-r", "sidekiq", "-r", "sidekiq/api", "-e", code, out: File::NULL)).to be(true)
    end
    remote.call("quiet!")
    await_state(worker, "quiet")
    expect(check).to eq([1, "not ready: process #{worker.pid} is quiet\n"])
    expect(record(worker.pid)["why"]).to eq("SIGTSTP")
    wait_until("drained") { File.exist?(drained_file) }
    remote.call("stop!")
    expect(expect_recorded_end(worker)["why"]).to eq("SIGTERM")
  end
end
