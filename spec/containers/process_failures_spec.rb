# frozen_string_literal: true

# What may befall the processes of a container while jobs run. Nothing breaks: where the relay is alive the jobs are
# saved when the container is stopped, and where it isn't the status says so.
RSpec.describe "a container that is handled roughly", :containers, full: Sandbox::MAJOR != 6 do
  before(:context) { LaunchedContainer.prepare }

  def launch(text, **options, &) = LaunchedContainer.open(LaunchForm.line(text), after: QUICK_HEARTBEAT, **options, &)

  def sidekiq(launch) = launch.records.fetch(0)["pid"]
  def path(launch) = launch.records.fetch(0)["signal_path"]
  def shell(launch, pid = sidekiq(launch)) = status(launch, pid)["PPid"].to_i

  # What /proc says of a process.
  def status(launch, pid)
    launch.exec("cat", "/proc/#{pid}/status").last.scan(/^(\w+):\t(.*)$/).to_h
  end

  # From inside, as the container's own user; as a debugger or an operator would.
  def kill(launch, signal, pid)
    expect(launch.exec("dash", "-c", "kill -#{signal} #{pid}")).to eq([0, ""])
  end

  def expect_to_work(launch) = launch.await("it works") { launch.short_ended? }

  def expect_jobs_saved_by_stop(launch, code: 0)
    launch.stop(SignalOutcome::GENEROUS)
    expect(launch.exit_code).to eq(code)
    expect(launch).to be_nothing_lost
    expect(launch.records).to match([include("state" => "stopped", "exit_status" => 0)])
  end

  it "is ready in strict mode with the host's PIDs, where its path does not end with PID 1" do
    strict = "lifecycle.require_signal_path = true; lifecycle.stop_timeout = 60"
    launch("exec sidekiq", pid_namespace: "host", install: strict) do |launch|
      expect(path(launch)).to include("term" => "arrives", "tstp" => "arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "goes on when the relay is killed, and says at the next beat that a SIGTERM would be lost" do
    launch("sidekiq; echo x") do |launch|
      relay = path(launch)["relay"]
      kill(launch, :KILL, relay)
      launch.await("it is told") { path(launch)["term"] == "lost" }
      expect(path(launch)).to include("tstp" => "lost", "relay" => nil)
      expect(launch.exec("sidekiq-lifecycle", "doctor").first).to eq(1)
      expect(Sandbox.messages(launch.records.first))
        .to match([include("is lost", "the relay (pid #{relay}) has ended")])
      expect(status(launch, 1)).to include("State" => "S (sleeping)", "TracerPid" => "0")
      kill(launch, :TSTP, sidekiq(launch))
      expect_to_work(launch)
    end
  end

  it "is held at its end when a shell between is killed: Sidekiq is told to stop, and its jobs are saved" do
    launch("dash -c 'sidekiq; echo x'; echo y") do |launch|
      kill(launch, :KILL, shell(launch))
      expect(launch.exit_code).to eq(0)
      expect(launch).to be_nothing_lost
      expect(launch.log).to match(/^y$.*Shutting down.*Bye!/m)
    end
  end

  # Nobody has told it to stop before; the worker would take two minutes.
  { "of a background" => "sidekiq & until [ -e end ]; do sleep 0.1; done",
    "below which another was killed" => "dash -c 'sidekiq; echo x'; until [ -e end ]; do sleep 0.1; done" }
    .each do |what, text|
      it "is killed at once when PID 1, a shell #{what}, has ended by itself and is held" do
        form = LaunchForm.line(text).with_timeout(120)
        LaunchedContainer.open(form, after: "at_exit { sleep }") do |launch|
          kill(launch, :KILL, shell(launch)) unless shell(launch) == 1
          launch.await("it is PID 1's child") { shell(launch) == 1 }
          launch.exec("dash", "-c", "touch end")
          launch.await("PID 1 is held, and Sidekiq told") { launch.log.include?("Shutting down") }
          expect(status(launch, 1)["State"]).to start_with("t")
          Thread.new { launch.kill }
          expect(launch.exit_code).to eq(137)
        end
      end
    end

  it "is stopped as ever when a shell between has been killed and PID 1 lives on" do
    launch("dash -c 'sidekiq; echo x'; while [ ! -e end ]; do sleep 1; done") do |launch|
      kill(launch, :KILL, shell(launch))
      launch.await("it is PID 1's child") { shell(launch) == 1 }
      launch.signal("TERM")
      launch.await("its jobs are saved") { launch.nothing_lost? && launch.records.first["state"] == "stopped" }
      launch.await("nothing is left to reap") { launch.zombies.empty? }
      # From here on a signal is the shell's own again.
      launch.exec("dash", "-c", "touch end")
      expect(launch.exit_code).to eq(0)
    end
  end

  it "is stopped as ever when PID 1 was stopped and continued" do
    launch("sidekiq; echo x") do |launch|
      kill(launch, :STOP, 1)
      expect(status(launch, 1)["State"]).to start_with("S")
      launch.signal("STOP")
      launch.await("PID 1 stands still") { status(launch, 1)["State"].start_with?("T", "t") }
      kill(launch, :TSTP, sidekiq(launch))
      expect_to_work(launch)
      launch.signal("CONT")
      launch.await("PID 1 goes on") { status(launch, 1)["State"].start_with?("S") }
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "saves its jobs while a shell between stands still, and ends when that is continued" do
    launch("dash -c 'sidekiq; echo x'; echo y") do |launch|
      kill(launch, :STOP, inner = shell(launch))
      launch.await("the shell stands still") { status(launch, inner)["State"].start_with?("T", "t") }
      launch.signal("TERM")
      launch.await("its jobs are saved") { launch.nothing_lost? && launch.records.first["state"] == "stopped" }
      # Not by `kill`: the container may end before the command in it does.
      launch.exec("dash", "-c", "kill -CONT #{inner}")
      expect(launch.exit_code).to eq(0)
    end
  end

  it "saves its jobs when the relay was stopped: it is continued" do
    launch("sidekiq; echo x") do |launch|
      kill(launch, :STOP, path(launch)["relay"])
      expect_jobs_saved_by_stop(launch)
    end
  end

  # Whoever ignores it leaves that to all it starts, the relay too, which then is not told when what it traces stops.
  { "in the script that starts Sidekiq" => ["bash -c \"trap '' CHLD; sidekiq; echo x\"; echo y", ""],
    "by the application" => ["sidekiq; echo x", 'Signal.trap("CLD", "IGNORE")'] }.each do |where, (text, before)|
    it "is stopped as ever where SIGCHLD is ignored #{where}" do
      launch(text, before:) do |launch|
        expect(path(launch)).to include("term" => "arrives", "relay" => status(launch, 1)["TracerPid"].to_i)
        expect_jobs_saved_by_stop(launch)
      end
    end
  end

  it "refuses a debugger on a traced shell, and is stopped as ever" do
    launch("sidekiq; echo x") do |launch|
      code, words = launch.exec("strace", "-p", "1")
      expect([code, words]).to match([1, include("Operation not permitted")])
      expect(path(launch)).to include("term" => "arrives", "relay" => status(launch, 1)["TracerPid"].to_i)
      expect_jobs_saved_by_stop(launch)
    end
  end

  # An strace that is there before Sidekiq.
  def strace = "strace -qq -o /dev/null -p $$ & until grep -q 'TracerPid:.[1-9]' /proc/$$/status; do sleep 0.1; done"

  it "says who traces the shell already, and works on" do
    launch("#{strace}; sidekiq; echo x") do |launch|
      tracer = status(launch, 1)["TracerPid"]
      expect(path(launch)).to include("term" => "lost", "tstp" => "lost", "relay" => nil)
      expect(Sandbox.messages(launch.records.first))
        .to match([include("may not trace dash (pid 1) because process #{tracer} traces it already: end that tracer")])
      kill(launch, :TSTP, sidekiq(launch))
      expect_to_work(launch)
    end
  end

  it "is stopped as ever with run in front of a shell that somebody else traces" do
    form = LaunchForm.line("#{strace}; sidekiq; echo x")
    form.command = ["sidekiq-lifecycle", "run", "--", *form.command]
    LaunchedContainer.open(form) do |launch|
      expect(status(launch, shell(launch))["TracerPid"].to_i).not_to eq(0)
      expect(path(launch)["term"]).to eq("arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "is stopped as ever once that tracer has been ended, and Sidekiq started anew" do
    LaunchedContainer.prepared(LaunchForm.line("#{strace}; sidekiq; #{LaunchForm::TARGET}; echo x")) do |launch|
      launch.boot
      launch.await("ready") { launch.ready? }
      kill(launch, :KILL, status(launch, 1)["TracerPid"])
      first = sidekiq(launch)
      kill(launch, :TERM, first)
      launch.await("Sidekiq anew") { launch.ready? && sidekiq(launch) != first }
      expect(path(launch.occupy)["term"]).to eq("arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "is stopped as ever when it is a shell further in that somebody else traces" do
    launch("dash -c '#{strace.gsub("'", "\"")}; sidekiq; echo x'; echo y") do |launch|
      expect(status(launch, shell(launch))["TracerPid"].to_i).not_to eq(path(launch)["relay"])
      expect(path(launch)["term"]).to eq("arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end
end
