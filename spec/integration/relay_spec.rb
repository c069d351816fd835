# frozen_string_literal: true

# The relay forwards signals past the shells between PID 1 and Sidekiq. Each example is a small container: its own PID
# namespace, in which PID 1 is a shell.
RSpec.describe "the relay" do
  before { skip "no PID namespaces may be made here" unless system("unshare --pid --fork true", err: File::NULL) }

  # In the script, "$@" is the command line of Sidekiq.
  def start_in(shell, script, timeout: 60, **options)
    launcher = %w[unshare --pid --fork --kill-child --mount-proc] + [shell, "-c", script, shell]
    start(launcher:, timeout:, **options)
  end

  def start_ready_in(shell, script, workers: 1, may_be_late: false, **options)
    start_in(shell, script, **options).tap do |worker|
      wait_until("ready") do
        worker.raise_if_ended
        ready_file? && records.map { |record| record["state"] } == ["running"] * workers &&
          (may_be_late || records.none? { |record| Sandbox.relay_late?(record) })
      end
    end
  end

  def ready_file? = File.exist?(ready_file)

  def records
    Dir[file("tmp/sidekiq/processes/*")].map { |path| JSON.parse(File.read(path)) }.sort_by { |record| record["pid"] }
  end

  def the_record = records.fetch(0)

  # A process and all below it, with the pids as seen from here: pid => [command line, state].
  def tree(pid)
    below = File.read("/proc/#{pid}/task/#{pid}/children").split.map(&:to_i)
    own = [File.read("/proc/#{pid}/cmdline").tr("\0", " ").strip, File.read("/proc/#{pid}/stat")[/\) (\S)/, 1]]
    below.map { |child| tree(child) }.reduce({ pid => own }, :merge)
  rescue Errno::ENOENT, Errno::ESRCH
    {}
  end

  def pid1(worker) = wait_until("unshare has forked") { tree(worker.pid).keys[1] }

  def find(worker, pattern)
    wait_until("there is a #{pattern.inspect}") do
      tree(worker.pid).find { |_, (command, _)| command.match?(pattern) }&.first
    end
  end

  def relay_of(worker) = find(worker, /\Asignal-relay/)
  def tracer_of(pid) = File.read("/proc/#{pid}/status")[/TracerPid:\s*(\d+)/, 1].to_i

  def expect_shutdown(worker, code: 0)
    expect(worker.exit_code).to eq(code)
    expect(notes).to eq(["job begins", "job ends"]), worker.log
    expect(worker.log.scan("Shutting down").size).to eq(1)
    expect(the_record).to include("state" => "stopped", "exit_status" => 0)
    expect(ready_file?).to be(false)
  end

  {
    "a foreground command" => ['"$@"; echo end', 0],
    "a pipeline" => ['"$@" | cat', 0],
    "a trap and a foreground command" => ['trap "echo trapped" TERM; "$@"; exit 0', 0],
    # These traps run at once, and decide what happens.
    "a trap that passes TERM on" => ['trap "kill $P; kill \$!" TERM; "$@" & wait; wait', 0, "unknown"],
    "a trap that ends the shell" => ['trap "exit 7" TERM; "$@" & wait', 7, "unknown"],
    "a trap that says EXIT" => ['trap "echo bye" EXIT; "$@"; exit 0', 143]
  }.each do |what, (script, code, term)|
    it "forwards TERM once past a shell with #{what}, and the job ends" do
      worker = start_ready_in("bash", script)
      expect(the_record["signal_path"]).to include("term" => term || "arrives", "tstp" => "arrives")
      expect(Sandbox.messages(the_record)).to be_empty
      start_job
      Process.kill(:TERM, pid1(worker))
      wait_until("it is no longer ready") { !ready_file? }
      expect(notes).to eq(["job begins"])
      release
      expect_shutdown(worker, code:)
    end
  end

  # Without a slow hook, a Sidekiq with `-t 3` has exited 8 s after TERM.
  it "holds a shell for as long as the application's own hooks take" do
    slow = "Sidekiq.configure_server { |config| config.on(:quiet) { sleep 12 } }"
    worker = start_ready_in("bash", 'trap "exit 7" TERM; "$@" & wait', timeout: 3, after: slow)
    start_job
    Process.kill(:TERM, pid1(worker))
    expect(worker.exit_code).to eq(7)
    expect(the_record).to include("state" => "stopped", "exit_status" => 0)
    expect(queued).to eq(1)
  end

  it "lets a trap send TSTP first and TERM later" do
    careful = "kill -TSTP \\$!; until [ -e end ]; do sleep 0.1; done; kill -TERM \\$!"
    worker = start_ready_in("bash", %(trap "#{careful}" TERM; "$@" & wait; wait; exit 0))
    start_job
    Process.kill(:TERM, pid1(worker))
    wait_until("it is quiet") { the_record["state"] == "quiet" }
    expect(the_record["why"]).to eq("SIGTSTP")
    release("end")
    wait_until("it is stopping") { the_record["state"] == "stopping" }
    release
    expect_shutdown(worker)
  end

  %i[TERM INT].each do |signal|
    it "forwards #{signal} while the application boots" do
      worker = start_in("dash", '"$@"; exit $?', after: 'note "booting"; sleep 600')
      wait_until("it boots") { notes == ["booting"] && records.any? }
      wait_until("the relay traces") { tracer_of(pid1(worker)).positive? }
      Process.kill(signal, pid1(worker))
      expect(worker.exit_code).to eq(128 + Signal.list.fetch(signal.to_s))
      expect(the_record).to include("state" => "stopped")
    end
  end

  it "forwards TSTP and suspends no process" do
    worker = start_ready_in("dash", '"$@"; exit 0')
    Process.kill(:TSTP, pid1(worker))
    wait_until("it is quiet") { the_record["state"] == "quiet" }
    expect(tree(worker.pid).values.map(&:last)).not_to include("T")
    Process.kill(:TERM, pid1(worker))
    expect(worker.exit_code).to eq(0)
  end

  it "does not take the TSTP that it has just forwarded for the answer to a TERM" do
    worker = start_ready_in("bash", 'trap "echo trapped" TERM; "$@"; exit 0')
    %i[TSTP TERM].each { |signal| Process.kill(signal, pid1(worker)) }
    expect(worker.exit_code).to eq(0)
    expect(the_record["state"]).to eq("stopped")
  end

  # Like a command on a disk that hangs, or on a very busy machine.
  context "when its start hangs" do
    let(:before) do
      FileUtils.mkdir_p(file("hangs/sidekiq_lifecycle"))
      command = file("hangs/sidekiq_lifecycle/sidekiq-lifecycle")
      File.write(command, <<~BASH)
        #!/bin/bash
        echo $$ >>#{file("hanging")}
        until [ -e #{file("answer")} ]; do /bin/sleep 0.1; done
        exec -a signal-relay #{SidekiqLifecycle::CLI.path} "$@"
      BASH
      File.chmod(0o755, command)
      <<~RUBY
        $LOAD_PATH.unshift(File.expand_path("hangs"))
        trap("USR1") { note "hears USR1" }
      RUBY
    end

    it "does not hold up the boot, reports it in the log and in the status, and works once it has answered" do
      worker = start_ready_in("dash", '"$@"; exit 0', may_be_late: true, before:, after: QUICK_HEARTBEAT)
      expect(the_record["signal_path"]).to include("term" => "lost", "relay" => nil)
      expect(Sandbox.messages(the_record)).to match([include("is lost", "the relay has not started yet")])
      expect(worker.log).to include("the relay has not started yet")
      FileUtils.touch(file("answer"))
      wait_until("it is there") { the_record["signal_path"].then { |path| path["term"] == "arrives" && path["relay"] } }
      expect(the_record["problems"]).to be_empty
      # The relay gets to know the traps that were set before.
      Process.kill(:USR1, pid1(worker))
      wait_for_note("hears USR1")
      Process.kill(:TERM, pid1(worker))
      expect(worker.exit_code).to eq(0)
      expect(the_record).to include("state" => "stopped", "exit_status" => 0)
    end

    it "does not keep a Sidekiq from ending at TERM meanwhile" do
      worker = start_in("dash", '"$@"; exit $?', before:)
      wait_until("it hangs") { File.exist?(file("hanging")) }
      Process.kill(:TERM, find(worker, %r{\A\S*ruby\S* \S*/sidekiq -r}))
      expect(worker.exit_code).to eq(128 + 15)
      expect(ready_file?).to be(false)
    end
  end

  it "does not start if it is off; TERM is lost then, as the log and the status report" do
    worker = start_ready_in("dash", '"$@"; exit 0', install: "lifecycle.signal_relay = :off")
    expect(tree(worker.pid).values.map(&:first).grep(/relay/)).to be_empty
    expect(the_record["signal_path"])
      .to eq("term" => "lost", "tstp" => "lost", "relay" => nil, "doubt" => nil, "no_relay" => "signal_relay is off")
    expect(Sandbox.messages(the_record))
      .to contain_exactly(match(/\Aa SIGTERM sent to dash \(pid 1\) is lost.*put exec/))
    expect(worker.log.scan("a SIGTERM sent to dash").size).to eq(1)
    Process.kill(:TERM, pid1(worker))
    push("Sleep", 0)
    wait_until("a job still runs") { notes.include?("sleep ends") }
    expect(ready_file?).to be(true)
  end

  it "leaves everything running when it is killed, and the next heartbeat reports it" do
    strict = "lifecycle.require_signal_path = true; lifecycle.stop_timeout = 30"
    worker = start_ready_in("dash", '"$@"; exit 0', after: QUICK_HEARTBEAT, install: strict, timeout: 8)
    Process.kill(:KILL, relay_of(worker))
    # On a very busy machine it may take longer to die than the first check waits.
    wait_until("it is reported") { the_record["signal_path"].values_at("term", "relay") == ["lost", nil] }
    expect(Sandbox.messages(the_record))
      .to contain_exactly(match(/to fix it, put exec .*; the relay \(pid \d+\) has ended\z/))
    wait_until("in strict mode it is no longer ready") { !ready_file? }
    expect(check.last).to match(/not ready: process \d+ (is running, but a SIGTERM|belongs to)/)
    expect(tracer_of(pid1(worker))).to eq(0)
    push("Sleep", 0)
    wait_until("it works on") { notes.include?("sleep ends") }
  end

  it "keeps a strict Sidekiq from being ready while TERM would be lost" do
    worker = start_in("dash", '"$@"; exit 0', after: QUICK_HEARTBEAT, install: <<~RUBY)
      lifecycle.signal_relay = :off
      lifecycle.require_signal_path = true
    RUBY
    seen = Watcher.new { ready_file? }
    wait_until("it runs") { (records.any? && the_record["state"] == "running") || worker.raise_if_ended }
    push("Sleep", 0)
    wait_until("it works") { notes.include?("sleep ends") }
    expect(seen.changes).to eq([false])
    expect(the_record["withheld"]).to include("is lost")
    expect(worker.log).to include("sidekiq_lifecycle #{SidekiqLifecycle::VERSION}: running")
  end

  it "still forwards TERM after a shell in between was killed" do
    worker = start_ready_in("dash", 'sh -c "\"\$@\"; true" inner "$@"; wait; while sleep 1; do :; done')
    Process.kill(:KILL, find(worker, /\Ash -c/))
    start_job
    Process.kill(:TERM, pid1(worker))
    wait_until("it is stopping") { the_record["state"] == "stopping" }
    release
    wait_until("the job is done") { notes.include?("job ends") && the_record["state"] == "stopped" }
  end

  it "leaves a suspended shell suspended, and a continued one running" do
    worker = start_ready_in("dash", 'sh -c "\"\$@\"; true" inner "$@"; exit 0')
    inner = find(worker, /\Ash -c/)
    state = -> { tree(inner).values.first&.last }
    Process.kill(:STOP, inner)
    wait_until("it is stopped") { %w[T t].include?(state.call) }
    start_job
    Process.kill(:CONT, inner)
    wait_until("it is continued") { state.call == "S" }
    Process.kill(:TERM, pid1(worker))
    release
    expect_shutdown(worker)
  end

  it "keeps tracing a shell that has become another program without a handler" do
    worker = start_ready_in("bash", '"$@" & until [ -e tmp/sidekiq/ready ]; do sleep 0.1; done; exec sleep 600')
    wait_until("it is sleep") { tree(worker.pid).values.any? { |command, _| command == "sleep 600" } }
    start_job
    Process.kill(:TERM, pid1(worker))
    wait_until("it is stopping") { the_record["state"] == "stopping" }
    release
    wait_until("the job is done") { notes.include?("job ends") && the_record["state"] == "stopped" }
  end

  it "stops tracing a shell that has become an init, which waits for its signals" do
    worker = start_ready_in("bash", '"$@" & until [ -e tmp/sidekiq/ready ]; do sleep 0.1; done; exec tini -- sleep 600')
    wait_until("it is tini") { tree(worker.pid)[pid1(worker)]&.first == "tini -- sleep 600" }
    wait_until("it is let go") { tracer_of(pid1(worker)).zero? }
  end

  it "signals every Sidekiq below one shell, and waits for all of them" do
    worker = start_ready_in("bash", 'trap "exit 3" TERM; "$@" & "$@" & wait', workers: 2)
    2.times { |number| push("Evaluate", held_job(number)) }
    wait_until("the jobs begin") { notes.sort == ["0 begins", "1 begins"] }
    expect(tree(worker.pid).values.map(&:first).grep(/relay/).size).to eq(2)
    Process.kill(:TERM, pid1(worker))
    wait_until("both are stopping") { records.all? { |record| record["state"] == "stopping" } }
    release
    expect(worker.exit_code).to eq(3)
    expect(notes).to include("0 ends", "1 ends")
    expect(records.map { |record| record["exit_status"] }).to eq([0, 0])
  end

  it "is replaced by the next Sidekiq's relay when the first one's is killed" do
    worker = start_ready_in("bash", '"$@" & "$@" & wait; wait; exit 0', workers: 2)
    Process.kill(:KILL, first = tracer_of(pid1(worker)))
    wait_until("another traces") { ![0, first].include?(tracer_of(pid1(worker))) }
    Process.kill(:TERM, pid1(worker))
    wait_until("one has stopped") { records.any? { |record| record["state"] == "stopped" } }
  end

  it "is not a child of Sidekiq, keeps no pipe open, and wakes once a second while idle" do
    worker = start_ready_in("bash", '"$@" | cat; exit 0')
    push("Evaluate", 'Process.waitall; note "waited for nobody"')
    wait_until("the job is done") { notes == ["waited for nobody"] }
    relay = relay_of(worker)
    descriptors = Dir["/proc/#{relay}/fd/*"].map { |descriptor| File.readlink(descriptor) }
    expect(descriptors.map { |name| File.basename(name) }.tally)
      .to eq("null" => 3, "anon_inode:[signalfd]" => 1, "anon_inode:[pidfd]" => 1)
    expect(File.read("/proc/#{relay}/smaps_rollup")[/Anonymous:\s*(\d+)/, 1].to_i).to be < 500
    switches = -> { File.read("/proc/#{relay}/status").scan(/ctxt_switches:\s*(\d+)/).flatten.map(&:to_i).first }
    before = [switches.call, Process.clock_gettime(Process::CLOCK_MONOTONIC)]
    sleep 3
    woken = switches.call - before.first
    expect(woken).to be_between(1, Process.clock_gettime(Process::CLOCK_MONOTONIC) - before.last + 2)
  end

  it "ends with the worker and leaves nothing behind, whatever PID 1 does next" do
    worker = start_ready_in("dash", '"$@"; sleep 600')
    relay_of(worker)
    Process.kill(:TERM, find(worker, /busy\]/))
    left = [%w[unshare S], %w[dash S], %w[sleep S]]
    wait_until("only the script is left") do
      tree(worker.pid).values.map { |command, state| [command[/\w+/], state] } == left
    end
  end

  # The init is no shell, because the kernel suspends no PID 1.
  it "lets no TSTP suspend a shell that has outlived its worker in a stop" do
    script = '"$@"; until [ -e end ]; do sleep 0.05; done'
    worker = start(launcher: %w[unshare --pid --fork --kill-child --mount-proc tini -- dash -c] + [script, "dash"])
    await_ready(worker)
    relay = relay_of(worker)
    Process.kill(:TERM, pid1(worker))
    wait_until("Sidekiq has ended") { tree(worker.pid).values.none? { |command, _| command.start_with?("sidekiq ") } }
    expect(tree(worker.pid)).to include(relay)
    Process.kill(:TSTP, pid1(worker))
    sleep 1
    release("end")
    expect(worker.exit_code).to eq(0)
  end

  it "ends when the worker is killed" do
    worker = start_ready_in("dash", '"$@"; exit 5')
    Process.kill(:KILL, find(worker, /busy\]/))
    expect(worker.exit_code).to eq(5)
  end

  it "is not started if there is no shell in between" do
    worker = start_ready_in("dash", 'exec "$@"')
    expect(the_record["signal_path"]).to include("term" => "arrives", "tstp" => "arrives", "relay" => nil)
    expect(tree(worker.pid).values.map(&:first).grep(/relay/)).to be_empty
  end

  it "reports why it cannot help if the shell belongs to another user" do
    FileUtils.chmod(0o777, app)
    worker = start_ready_in("dash", 'setpriv --reuid 4711 --regid 4711 --clear-groups "$@"; exit 0')
    expect(Sandbox.messages(the_record)).to contain_exactly(
      match(/is lost.*; the relay may not trace dash \(pid 1\) because it belongs to another user \(uid 0\): run/)
    )
    expect(worker.log.lines.grep(/belongs to another user/)).to contain_exactly(a_kind_of(String))
  end

  # Like a dash on a busy machine, which unblocks its signals only after its child has come this far.
  let(:slow_to_fork) { <<~PYTHON }
    import os, signal, sys
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execvp(sys.argv[1], sys.argv[1:])
    while not os.path.exists("tmp/sidekiq/ready"): pass
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.waitpid(child, 0)
  PYTHON

  it "recognizes a shell that has blocked signals only to fork" do
    FileUtils.chmod(0o777, app)
    File.write(file("fork.py"), slow_to_fork)
    worker = start_ready_in("bash", 'exec -a dash python3 fork.py setpriv --reuid 1 --regid 1 --clear-groups "$@"')
    expect(worker.log.lines.grep(/SIGTERM/)).to contain_exactly(match(/drops TERM: it is PID 1 and has no handler/))
  end
end
