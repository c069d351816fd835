# frozen_string_literal: true

RSpec.describe "jobs and hooks" do
  # Runs code in a job and waits for the end of it.
  def perform(code, queue: "default")
    ended = "ended #{SecureRandom.hex(4)}"
    push("Evaluate", "#{code}\nnote #{ended.inspect}", queue:)
    wait_until("a job ends: #{code}") { notes.include?(ended) }
  end

  # Everything that a reader of the directory could notice, except the heartbeat.
  def traces(worker)
    sentinel = File.stat(ready_file)
    [sentinel.ino, sentinel.ctime, File.exist?(drained_file),
     record(worker.pid).except("beat", "beat_monotonic", "busy", "jobs")]
  end

  describe "a job's child" do
    it "changes no file, whatever it does" do
      worker = start_ready
      before = traces(worker)
      {
        "exits" => "Process.wait(fork { exit })",
        "exits with a status" => "Process.wait(fork { exit 3 })",
        "exits without any hook" => "Process.wait(fork { exit! })",
        "raises" => "Process.wait(fork { $stderr.reopen(File::NULL); raise 'in a child' })",
        "is killed" => "Process.wait(fork { sleep }.tap { |pid| Process.kill(:KILL, pid) })",
        "becomes another program" => "Process.wait(fork { exec 'true' })",
        "forks and exits" => "Process.wait(fork { Process.wait(fork { exit }); exit })",
        "is waited for with all others" => "2.times { fork { exit } }; Process.waitall",
        "is a program" => "system('true'); `true`; Process.wait(spawn('true')); IO.popen('true').close",
        "outlives the job" => "fork { sleep }"
      }.each do |what, code|
        perform(code)
        expect(traces(worker)).to eq(before), "a child that #{what} was noticed"
      end
      expect(check).to eq([0, "ready\n"])
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(record(worker.pid)).to include("state" => "stopped", "why" => "SIGTERM")
    end

    it "is not a Sidekiq" do
      start_ready
      perform("Process.wait(fork { note [SidekiqLifecycle.status, SidekiqLifecycle.ready?].inspect; exit! })")
      expect(notes).to include("[nil, false]")
    end

    # The child inherits Sidekiq's traps, which write to a pipe that the parent reads. It closes that pipe, so that only
    # our handler could reach the parent.
    %w[TERM INT TSTP].each do |signal|
      it "gets a #{signal} that does not reach its parent" do
        worker = start_ready
        before = traces(worker)
        perform(<<~RUBY)
          child = fork do
            ObjectSpace.each_object(IO) { |io| io.close unless io.closed? || io.fileno < 3 }
            begin
              note "child"
              sleep
            ensure
              note "child's end: \#{$!.class}"
              exit!
            end
          end
          sleep 0.01 until File.exist?("notes") && File.read("notes").include?("child")
          Process.kill(:#{signal}, child)
          Process.wait(child)
        RUBY
        expect(notes).to include("child's end: IOError")
        expect(traces(worker)).to eq(before)
      end
    end

    # This is Sidekiq's behaviour, not ours, but the record of it has to be right.
    it "that passes a TERM through Sidekiq's own pipe ends its parent, which records that" do
      worker = start_ready
      push("Evaluate", <<~RUBY)
        child = fork { sleep }
        Process.kill(:TERM, child)
        begin
          Process.wait(child)
        ensure
          Process.kill(:KILL, child)
        end
      RUBY
      expect(worker.exit_code).to eq(0)
      expect(File).not_to exist(ready_file)
      expect(record(worker.pid)).to include("state" => "stopped", "why" => start_with("stop was called"))
    end
  end

  it "can read the status, which does not change afterwards" do
    start_ready(concurrency: 3)
    perform(<<~RUBY)
      status = SidekiqLifecycle.status
      note [status.state, status.busy, status.concurrency, status.pid == Process.pid, SidekiqLifecycle.ready?,
            SidekiqLifecycle.quiet?, SidekiqLifecycle.drained?].inspect
      note [status.frozen?, status.to_h[:state], status.to_h == status.to_h].inspect
      Process.kill(:TSTP, Process.pid)
      sleep 0.01 until SidekiqLifecycle.quiet?
      note [status.state, SidekiqLifecycle.status.state, SidekiqLifecycle.ready?].inspect
    RUBY
    expect(notes.first(3)).to eq(["[:running, 1, 3, true, true, false, false]", "[true, :running, true]",
                                  "[:running, :quiet, false]"])
  end

  describe "a hook of the application that raises" do
    it "at :startup ends the process with 1 as usual, and it was never ready" do
      worker = start(startup: "raise IOError, 'no disk'", after: <<~RUBY)
        SidekiqLifecycle.on(:running) { note "running" }
      RUBY
      expect(worker.exit_code).to eq(1)
      expect(notes).to be_empty
      expect(Dir.children(file("tmp/sidekiq"))).to eq(["processes"])
      expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 1, "why" => "IOError: no disk")
      expect(record(worker.pid)["timings"].keys).to contain_exactly("booting", "stopped")
      expect(check).to eq([1, "not ready: process #{worker.pid} has stopped (exit 1, IOError: no disk)\n"])
    end

    # Ours are registered between these two, and Sidekiq runs them in reverse.
    it "at :quiet or :shutdown has no effect on the lifecycle" do
      worker = start_ready(install: <<~RUBY, startup: "nil", after: <<~AFTER)
        %i[quiet shutdown].each { |event| config.on(event) { raise "before: \#{event}" } }
      RUBY
        Sidekiq.configure_server do |config|
          %i[quiet shutdown].each { |event| config.on(event) { raise "after: \#{event}" } }
        end
      AFTER
      worker.signal(:TSTP)
      wait_until("drained") { File.exist?(drained_file) }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(worker.log).to include("before: quiet", "after: quiet", "before: shutdown", "after: shutdown")
      expect(record(worker.pid)["timings"].keys).to match_array(%w[booting running quiet drained stopping stopped])
    end
  end

  %w[RuntimeError NotImplementedError].each do |error|
    it "may listen for transitions and raise a #{error}: it is logged, and the next listener runs" do
      worker = start_ready(after: <<~RUBY)
        SidekiqLifecycle::EVENTS.each do |event|
          SidekiqLifecycle.on(event) { raise #{error}, "from \#{event}" }
          SidekiqLifecycle.on(event) { |status| note "\#{event} \#{status.frozen?}" }
        end
      RUBY
      worker.signal(:TSTP)
      wait_until("the listener for drained runs") { notes.include?("drained true") }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      events = %w[running quiet drained stopping stopped]
      expect(notes).to eq(events.map { |event| "#{event} true" })
      expect(worker.log.scan(/sidekiq_lifecycle: on\(:(\w+)\): #{error}: from \1/).flatten).to eq(events)
      expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0, "why" => "SIGTERM")
    end
  end

  describe "drained" do
    let(:wait_for_go) { %(note "begins"; sleep 0.01 until File.exist?("go")) }

    # Polls as often as possible, and returns what the block returns when the file first appears.
    def when_drained
      wait_until("drained", every: 0.001) { File.exist?(drained_file) }
      yield
    end

    it "comes when the last job has ended, not before, and does not wait for a heartbeat" do
      worker = start_ready(concurrency: 1, after: RARE_HEARTBEAT)
      push("Evaluate", "#{wait_for_go}; note 'ends'")
      push("Evaluate", "note 'never begins'")
      wait_until("the job begins") { notes.include?("begins") }
      wait_until("the first heartbeat") { redis.call("KEYS", "*:lifecycle", database: @database).any? }
      worker.signal(:TSTP)
      wait_until("it is quiet") { record(worker.pid)["state"] == "quiet" }
      beat = record(worker.pid)["beat"]
      # The core notes the signal before Sidekiq's threads are counted.
      wait_until("it names its job") { still_running(worker, "quiet").last.match?(check("drained").last) }
      expect(File).not_to exist(drained_file)
      release
      expect(when_drained { notes }).to eq(%w[begins ends])
      expect(record(worker.pid)["beat"]).to eq(beat)
      expect(File.mtime(file("notes"))).to be <= File.mtime(drained_file)
      expect(queued).to eq(1)
    end

    # Redis is paused, so that the job has ended long before its retry is pushed.
    it "comes when a failed job's retry is in Redis" do
      own_redis
      worker = start_ready
      push("Evaluate", "#{wait_for_go}; raise 'no'")
      wait_until("the job begins") { notes.include?("begins") }
      worker.signal(:TSTP)
      wait_until("it is quiet") { record(worker.pid)["state"] == "quiet" }
      redis.call("CLIENT", "PAUSE", 1500, "WRITE")
      release
      expect(when_drained { retries }).to eq(1)
    end

    # The same for a job that is fetched after the process was quieted, and goes back to its queue. Sidekiq waits 2 s
    # for a job; here it waits for as long as the push may take.
    it "comes when a job that was fetched too late is back in its queue" do
      own_redis
      worker = start_ready(concurrency: 1, after: <<~RUBY)
        require "sidekiq/fetch"
        Sidekiq::BasicFetch.send(:remove_const, :TIMEOUT)
        Sidekiq::BasicFetch::TIMEOUT = 600
      RUBY
      wait_until("it waits for a job") { redis.call("INFO", "clients").include?("blocked_clients:1\r\n") }
      worker.signal(:TSTP)
      # The record says so as soon as the signal arrives; Sidekiq itself follows.
      wait_until("its threads are told") { worker.log.include?("Terminating quiet ") }
      push("Evaluate", "note 'never begins'", at_once: [%w[CLIENT PAUSE 1500 WRITE]])
      expect(when_drained { queued }).to eq(1)
      expect(redis.call("INFO", "commandstats")).to match(/^cmdstat_rpush:calls=1,/)
      expect(notes).to be_empty
    end

    it "does not come when Sidekiq interrupts jobs at its shutdown timeout" do
      worker = start_ready(timeout: 1, concurrency: 1, after: "SidekiqLifecycle.on(:drained) { note 'drained' }")
      push("Evaluate", wait_for_go)
      wait_until("the job begins") { notes.include?("begins") }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(queued).to eq(1)
      expect(notes).to eq(["begins"])
      expect(record(worker.pid)).to include("state" => "stopped", "drained" => false,
                                            "why" => "SIGTERM", "interrupted_jobs" => 1)
      jid = record(worker.pid).dig("jobs", "interrupted", 0, "jid")
      line = "1 job was still running after the shutdown timeout of 1 s and goes back to its queue: #{named_job(jid)}"
      expect(worker.log).to match(/sidekiq_lifecycle: #{line}$/)
    end

    if Sandbox::MAJOR > 6
      it "comes when every capsule has finished" do
        worker = start_ready(concurrency: 1, install: <<~RUBY)
          config.capsule("slow") { |capsule| capsule.concurrency, capsule.queues = 1, %w[slow] }
        RUBY
        push("Evaluate", <<~RUBY, queue: "slow")
          note "begins"
          default = Sidekiq::CLI.instance.launcher.managers.find { |manager| manager.capsule.name == "default" }
          sleep 0.01 until default.workers.empty?
          note "default has finished"
          sleep 0.01 until File.exist?("go")
        RUBY
        wait_until("the job begins") { notes.include?("begins") }
        expect(record(worker.pid)["concurrency"]).to eq(2)
        worker.signal(:TSTP)
        wait_until("the other capsule has finished") { notes.include?("default has finished") }
        still = still_running(worker, "quiet", queue: "slow").last
        wait_until("it names its job") { check("drained").last.match?(still) }
        expect(File).not_to exist(drained_file)
        release
        wait_until("drained") { File.exist?(drained_file) }
      end
    end
  end

  it "change no file while the process runs" do
    start_ready(concurrency: 5, after: RARE_HEARTBEAT)
    files = lambda do
      Dir.glob(["tmp/sidekiq", "tmp/sidekiq/**/*"], base: app).to_h do |name|
        stat = File.stat(file(name))
        [name, [stat.ino, stat.mtime, stat.ctime]]
      end
    end
    # A heartbeat, or the end of its start, may write the record in between; that round proves nothing.
    unchanged = 5.times.any? do |round|
      before = files.call
      200.times { push("Evaluate", "note 'round #{round}'") }
      wait_until("all have run") { notes.count("round #{round}") == 200 }
      files.call == before
    end
    expect(unchanged).to be(true)
  end
end
