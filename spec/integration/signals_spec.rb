# frozen_string_literal: true

RSpec.describe "signals to a Sidekiq that has started" do
  def state(worker) = record(worker.pid)["state"]

  def expect_ended(worker, why, ready)
    expect(worker.exit_code).to eq(0)
    expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0, "why" => why)
    expect(ready.changes).to eq([true, false])
    expect(Dir.children(file("tmp/sidekiq"))).to eq(["processes"])
  end

  context "with nothing to do" do
    %w[TERM INT].each do |signal|
      it "#{signal} stops it, and it is never ready again" do
        worker = start_ready(after: 'at_exit { sleep 0.01 until File.exist?("go") }')
        ready = watch_ready
        worker.signal(signal)
        wait_until("no longer ready") { !worker.ready_file? }
        expect(worker).to be_running
        release
        expect_ended(worker, "SIG#{signal}", ready)
        expect(check).to eq([1, "not ready: process #{worker.pid} has stopped (exit 0, SIG#{signal})\n"])
      end
    end

    it "TSTP quiets it, a second TSTP changes nothing, and TERM stops it" do
      worker = start_ready
      ready = watch_ready
      worker.signal(:TSTP)
      await_drained(worker)
      expect(record(worker.pid)).to include("state" => "quiet", "why" => "SIGTSTP", "drained" => true)
      quiet_since = record(worker.pid)["since"]
      worker.signal(:TSTP)
      wait_until("Sidekiq handles the second") { worker.log.scan("Received TSTP").size == 2 }
      expect(record(worker.pid)).to include("state" => "quiet", "since" => quiet_since)
      expect(check("drained")).to eq([0, "drained\n"])
      expect(check("live")).to eq([0, "live\n"])
      worker.signal(:TERM)
      expect_ended(worker, "SIGTERM", ready)
      expect(queued).to eq(0)
    end

    it "INT stops a quiet process" do
      worker = start_ready
      ready = watch_ready
      worker.signal(:TSTP)
      wait_until("quiet") { state(worker) == "quiet" }
      worker.signal(:INT)
      expect_ended(worker, "SIGINT", ready)
    end
  end

  context "with a running job" do
    %w[TERM INT].each do |signal|
      it "#{signal} stops it once the job has ended, whatever signals arrive meanwhile" do
        worker = start_ready(timeout: 60)
        ready = watch_ready
        start_job
        worker.signal(signal)
        wait_until("no longer ready") { !worker.ready_file? }
        wait_until("stopping") { state(worker) == "stopping" }
        wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
        expect(check).to eq([1, "not ready: process #{worker.pid} is stopping\n"])
        expect(check("live").first).to eq(0)
        %w[TSTP TERM INT].each { |further| worker.signal(further) }
        expect(check("drained")).to match(still_running(worker, "stopping"))
        expect(File).not_to exist(drained_file)
        expect(record(worker.pid)).to include("state" => "stopping", "why" => "SIG#{signal}")
        release
        expect_ended(worker, "SIG#{signal}", ready)
        expect(notes).to eq(["job begins", "job ends"])
        expect(queued).to eq(0)
        expect(record(worker.pid)["timings"]).to include("drained")
        expect(record(worker.pid)["timings"]).not_to include("quiet")
      end
    end

    it "TSTP lets the job end, and TERM meanwhile stops the process after that" do
      worker = start_ready(timeout: 60)
      ready = watch_ready
      start_job
      worker.signal(:TSTP)
      # The observer sets the state to quiet. The running job is known once Sidekiq itself has handled the signal.
      one_left = still_running(worker, "quiet").last
      wait_until("quiet, with one job") { check("drained").last.match?(one_left) }
      push("Sleep", 0)
      worker.signal(:TERM)
      wait_until("stopping") { state(worker) == "stopping" }
      expect(File).not_to exist(drained_file)
      release
      expect_ended(worker, "SIGTERM", ready)
      expect(notes).to eq(["job begins", "job ends"])
      expect(queued).to eq(1)
    end

    # One thread: an idle one that still waits for a job would take the one that was pushed back.
    it "is not drained if Sidekiq interrupts a job at its shutdown timeout and pushes it back" do
      worker = start_ready(timeout: 1, concurrency: 1)
      ready = watch_ready
      drained = Watcher.new { File.exist?(drained_file) }
      start_job
      worker.signal(:TERM)
      expect_ended(worker, "SIGTERM", ready)
      expect(record(worker.pid)).to include("interrupted_jobs" => 1, "lost_jobs" => [])
      expect(drained.changes).to eq([false])
      expect(record(worker.pid)).to include("drained" => false)
      expect(notes).to eq(["job begins"])
      expect(queued).to eq(1)
    end
  end

  context "with a job that holds the GVL in native code" do
    { "TERM" => "stopping", "INT" => "stopping", "TSTP" => "quiet" }.each do |signal, its_state|
      it "is no longer ready once #{signal} has arrived, and handles it when Ruby runs again" do
        worker = start_ready
        ready = watch_ready
        lock = hold_gvl(worker)
        worker.signal(signal)
        wait_until("no longer ready") { !worker.ready_file? }
        wait_until(its_state) { state(worker) == its_state }
        expect(check).to eq([1, "not ready: process #{worker.pid} is #{its_state}\n"])
        expect(notes).to eq(["lock wanted"])
        expect(worker.log).not_to match(/Shutting down|Received TSTP/)
        lock.close
        wait_until("Sidekiq handles it") { worker.log.match?(/Shutting down|Received TSTP/) }
        worker.signal(:TERM) if signal == "TSTP"
        expect_ended(worker, signal == "TSTP" ? "SIGTERM" : "SIG#{signal}", ready)
        expect(notes).to eq(["lock wanted", "lock released"])
        expect(queued).to eq(0)
      end
    end

    # Without the gem, Sidekiq 6.4 ends with a NoMethodError if it reads the second together with the first.
    it "TSTP and TTIN quiet it if it finds both at once" do
      worker = start_ready
      ready = watch_ready
      lock = hold_gvl(worker)
      worker.signal(:TSTP)
      worker.signal(:TTIN)
      lock.close
      wait_until("drained") { File.exist?(drained_file) }
      wait_until("Sidekiq handles the second") { worker.log.match?(/WARN.*TID-/) }
      worker.signal(:TERM)
      expect_ended(worker, "SIGTERM", ready)
    end

    [%w[TSTP TERM], %w[INT TERM], %w[TSTP INT]].each do |signals|
      it "#{signals.join(" and ")} stop it if it finds both at once" do
        worker = start_ready
        ready = watch_ready
        lock = hold_gvl(worker)
        signals.each { |signal| worker.signal(signal) }
        wait_until("stopping") { state(worker) == "stopping" }
        lock.close
        expect(worker.exit_code).to eq(0)
        expect(ready.changes).to eq([true, false])
        expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0)
        expect(worker.log).to include("Bye!")
      end
    end

    it "handles TERM as quickly after a repair" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      push("Evaluate", "trap(\"TERM\") { }")
      wait_until("repaired") { record(worker.pid)["rearmed"] == { "SIGTERM" => 1 } }
      ready = watch_ready
      lock = hold_gvl(worker)
      worker.signal(:TERM)
      wait_until("no longer ready") { !worker.ready_file? }
      expect(notes).to eq(["lock wanted"])
      lock.close
      expect_ended(worker, "SIGTERM", ready)
    end
  end

  context "with a job that replaces Sidekiq's traps" do
    def wait_for_repairs(worker, repairs)
      wait_until("repaired: #{repairs}") { record(worker.pid)["rearmed"] == repairs }
    end

    def repairs_in(log) = log.scan(/sidekiq_lifecycle: SIG\w+ had been taken from Sidekiq by .*$/)

    it "repairs the trap at Sidekiq's next heartbeat" do
      worker = start_ready
      push("Evaluate", "trap(\"TERM\") { note \"taken\" }")
      wait_for_repairs(worker, "SIGTERM" => 1)
      ready = watch_ready
      worker.signal(:TERM)
      expect_ended(worker, "SIGTERM", ready)
      expect(notes).to eq(["taken"])
    end

    {
      "a block" => ['{ note "taken" }', /by .+:\d+; repaired$/, ["taken"]],
      "a lambda, called with the number" => [', ->(n) { note "taken" if n == 15 }', /by .+:\d+; repaired$/, ["taken"]],
      "IGNORE" => [', "IGNORE"', /by "IGNORE"; repaired$/, []],
      "DEFAULT" => [', "DEFAULT"', /by "DEFAULT"; repaired$/, []],
      "SYSTEM_DEFAULT" => [', "SYSTEM_DEFAULT"', /by "SYSTEM_DEFAULT"; repaired$/, []],
      "a block that raises" => ['{ note "taken"; raise "no" }', /repaired$/, ["taken"]],
      "a block that exits" => ['{ note "taken"; exit 7 }', /repaired$/, ["taken"]]
    }.each do |what, (trap, message, said)|
      it "TERM trapped with #{what} still stops Sidekiq" do
        worker = start_ready(after: QUICK_HEARTBEAT, timeout: 60)
        ready = watch_ready
        push("Evaluate", trap.start_with?("{") ? "trap(\"TERM\") #{trap}" : "trap(\"TERM\"#{trap})")
        wait_for_repairs(worker, "SIGTERM" => 1)
        wait_until("logged") { repairs_in(worker.log).any? }
        expect(repairs_in(worker.log)).to match([message])
        File.write(file("notes"), "")
        start_job
        worker.signal(:TERM)
        wait_until("no longer ready") { !worker.ready_file? }
        wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
        release
        expect_ended(worker, "SIGTERM", ready)
        expect(notes.sort).to eq((["job begins", "job ends"] + said).sort)
      end
    end

    it "repairs TSTP and INT as well" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      ready = watch_ready
      push("Evaluate", "trap(\"TSTP\", \"IGNORE\"); trap(\"INT\") { note \"taken\" }")
      wait_for_repairs(worker, "SIGTSTP" => 1, "SIGINT" => 1)
      worker.signal(:TSTP)
      wait_until("drained") { File.exist?(drained_file) }
      worker.signal(:INT)
      expect_ended(worker, "SIGINT", ready)
      expect(notes).to eq(["taken"])
    end

    it "calls each handler once, and Sidekiq's too, after two repairs" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      ready = watch_ready
      %w[first second].each.with_index(1) do |name, count|
        push("Evaluate", "trap(\"TSTP\") { note \"#{name}\" }")
        wait_for_repairs(worker, "SIGTSTP" => count)
      end
      worker.signal(:TSTP)
      wait_until("drained") { File.exist?(drained_file) }
      expect(notes).to eq(["second"])
      worker.signal(:TERM)
      expect_ended(worker, "SIGTERM", ready)
      expect(worker.log.scan("Received TSTP").size).to eq(1)
    end

    it "keeps Sidekiq's trap if a job restores the one that it had found" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      ready = watch_ready
      push("Evaluate", <<~RUBY)
        theirs = trap("TSTP") { note "taken" }
        sleep 0.01 until File.exist?("go")
        trap("TSTP", theirs)
        note "put back"
      RUBY
      wait_for_repairs(worker, "SIGTSTP" => 1)
      release
      wait_for_note("put back")
      wait_for_repairs(worker, "SIGTSTP" => 2)
      expect(repairs_in(worker.log).size).to eq(1)
      worker.signal(:TSTP)
      wait_until("drained") { File.exist?(drained_file) }
      worker.signal(:TERM)
      expect_ended(worker, "SIGTERM", ready)
      expect(notes).to eq(["put back"])
      expect(worker.log.scan("Received TSTP").size).to eq(1)
    end

    it "counts the repairs in the status" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      push("Evaluate", "trap(\"TERM\", \"IGNORE\")")
      wait_for_repairs(worker, "SIGTERM" => 1)
      push("Evaluate", "note SidekiqLifecycle.status.rearmed.inspect")
      wait_for_note({ "SIGTERM" => 1 }.inspect)
    end
  end

  context "when it is killed" do
    def kill(worker)
      worker.signal(:KILL)
      expect(worker.exit_code).to eq(137)
    end

    it "is gone for the next check if it was booting" do
      worker = start(after: "note \"booting\"; sleep")
      wait_for_note("booting")
      expect(check).to eq([1, "not ready: process #{worker.pid} is booting\n"])
      kill(worker)
      expect(check).to eq([1, "not ready: process #{worker.pid} is gone\n"])
    end

    it "is gone for the next check if it was running" do
      worker = start_ready
      expect(check).to eq([0, "ready\n"])
      kill(worker)
      expect(check).to eq([1, "not ready: process #{worker.pid} is gone\n"])
      expect(check("live")).to eq([1, "not live: process #{worker.pid} is gone\n"])
    end

    it "is gone for the next check if it was quiet" do
      worker = start_ready
      worker.signal(:TSTP)
      wait_until("drained") { File.exist?(drained_file) }
      kill(worker)
      expect(check).to eq([1, "not ready: process #{worker.pid} is gone\n"])
      expect(check("drained")).to eq([1, "not drained: process #{worker.pid} is gone\n"])
    end

    it "is gone even before its parent has reaped it" do
      worker = start_ready
      worker.signal(:KILL)
      wait_until("a zombie") { File.read("/proc/#{worker.pid}/stat")[/\) (\S)/, 1] == "Z" }
      expect(check).to eq([1, "not ready: process #{worker.pid} is gone\n"])
    end

    context "and another process has got its pid" do
      # Writes the record as if this pid had been the worker's.
      def record_for(pid, **changes)
        old = record(@worker.pid)
        File.delete(file("tmp/sidekiq/processes", @worker.pid.to_s))
        File.write(file("tmp/sidekiq/processes", pid.to_s), JSON.generate(old.merge("pid" => pid, **changes)))
      end

      before do
        @worker = start_ready
        kill(@worker)
        @other = spawn("sleep", "600")
      end

      after do
        Process.kill(:KILL, @other)
        Process.wait(@other)
      end

      it "is gone, and its record is cleared by the next boot" do
        record_for(@other)
        expect(check).to eq([1, "not ready: process #{@other} is gone\n"])
        worker = start(name: "successor")
        wait_until("ready") { record(worker.pid)&.fetch("state") == "running" || worker.raise_if_ended }
        expect(Dir.glob("*", base: file("tmp/sidekiq/processes"))).to eq([worker.pid.to_s])
      end

      # The same as above, but with the start time of the other process in the record.
      it "is told apart by its start time" do
        fields = File.read("/proc/#{@other}/stat").split(") ").last.split
        record_for(@other, "start_time" => fields[19].to_i)
        expect(check).to eq([0, "ready\n"])
      end
    end
  end
end
