# frozen_string_literal: true

# What can happen to the processes of a container while jobs run. While the relay is alive, a stop saves the jobs. When
# it is not, the status reports that.
RSpec.describe "a container whose processes are killed or suspended", :containers, full: Sandbox::MAJOR != 6 do
  before(:context) { LaunchedContainer.prepare }

  def launch(text, **options, &) = LaunchedContainer.open(LaunchForm.line(text), after: QUICK_HEARTBEAT, **options, &)

  def sidekiq(launch) = launch.records.fetch(0)["pid"]
  def path(launch) = launch.records.fetch(0)["signal_path"]
  def shell(launch, pid = sidekiq(launch)) = status(launch, pid)["PPid"].to_i

  # The fields of /proc/PID/status.
  def status(launch, pid)
    launch.exec("cat", "/proc/#{pid}/status").last.scan(/^(\w+):\t(.*)$/).to_h
  end

  # From inside, as the container's own user, like a debugger or an operator.
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

  it "is ready in strict mode in the host's PID namespace, where its path does not end at PID 1" do
    strict = "lifecycle.require_signal_path = true; lifecycle.stop_timeout = 60"
    launch("exec sidekiq", pid_namespace: "host", install: strict) do |launch|
      expect(path(launch)).to include("term" => "arrives", "tstp" => "arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "keeps running when the relay is killed, and reports at the next heartbeat that a SIGTERM would be lost" do
    launch("sidekiq; echo x") do |launch|
      relay = path(launch)["relay"]
      kill(launch, :KILL, relay)
      launch.await("it is reported") { path(launch)["term"] == "lost" }
      expect(path(launch)).to include("tstp" => "lost", "relay" => nil)
      expect(launch.exec("sidekiq-lifecycle", "doctor").first).to eq(1)
      expect(Sandbox.messages(launch.records.first))
        .to match([include("is lost", "the relay (pid #{relay}) has ended")])
      expect(status(launch, 1)).to include("State" => "S (sleeping)", "TracerPid" => "0")
      kill(launch, :TSTP, sidekiq(launch))
      expect_to_work(launch)
    end
  end

  it "is kept until Sidekiq has stopped and saved its jobs, when a shell in between is killed" do
    launch("dash -c 'sidekiq; echo x'; echo y") do |launch|
      kill(launch, :KILL, shell(launch))
      expect(launch.exit_code).to eq(0)
      expect(launch).to be_nothing_lost
      expect(launch.log).to match(/^y$.*Shutting down.*Bye!/m)
    end
  end

  # No signal has been sent before. The worker would take two minutes to stop.
  { "of a background" => "sidekiq & until [ -e end ]; do sleep 0.1; done",
    "below which another was killed" => "dash -c 'sidekiq; echo x'; until [ -e end ]; do sleep 0.1; done" }
    .each do |what, text|
      it "is killed at once while the relay holds PID 1, a shell #{what}, at its exit" do
        form = LaunchForm.line(text).with_timeout(120)
        LaunchedContainer.open(form, after: "at_exit { sleep }") do |launch|
          kill(launch, :KILL, shell(launch)) unless shell(launch) == 1
          launch.await("it is PID 1's child") { shell(launch) == 1 }
          launch.exec("dash", "-c", "touch end")
          launch.await("PID 1 is held, and Sidekiq stops") { launch.log.include?("Shutting down") }
          expect(status(launch, 1)["State"]).to start_with("t")
          Thread.new { launch.kill }
          expect(launch.exit_code).to eq(137)
        end
      end
    end

  it "stops as usual after a shell in between was killed while PID 1 lives on" do
    launch("dash -c 'sidekiq; echo x'; while [ ! -e end ]; do sleep 1; done") do |launch|
      kill(launch, :KILL, shell(launch))
      launch.await("it is PID 1's child") { shell(launch) == 1 }
      launch.signal("TERM")
      launch.await("its jobs are saved") { launch.nothing_lost? && launch.records.first["state"] == "stopped" }
      launch.await("nothing is left to reap") { launch.zombies.empty? }
      # From now on signals are the shell's own again.
      launch.exec("dash", "-c", "touch end")
      expect(launch.exit_code).to eq(0)
    end
  end

  it "stops as usual after PID 1 was suspended and continued" do
    launch("sidekiq; echo x") do |launch|
      kill(launch, :STOP, 1)
      # The relay has seen the signal, which does not suspend PID 1.
      launch.await("PID 1 sleeps") { status(launch, 1)["State"].start_with?("S") }
      launch.signal("STOP")
      launch.await("PID 1 is suspended") { status(launch, 1)["State"].start_with?("T", "t") }
      kill(launch, :TSTP, sidekiq(launch))
      expect_to_work(launch)
      launch.signal("CONT")
      launch.await("PID 1 continues") { status(launch, 1)["State"].start_with?("S") }
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "saves its jobs while a shell in between is suspended, and ends when the shell continues" do
    launch("dash -c 'sidekiq; echo x'; echo y") do |launch|
      kill(launch, :STOP, inner = shell(launch))
      launch.await("the shell is suspended") { status(launch, inner)["State"].start_with?("T", "t") }
      launch.signal("TERM")
      launch.await("its jobs are saved") { launch.nothing_lost? && launch.records.first["state"] == "stopped" }
      # Not with the helper `kill`, because the container may end before the command in it.
      launch.exec("dash", "-c", "kill -CONT #{inner}")
      expect(launch.exit_code).to eq(0)
    end
  end

  it "saves its jobs if the relay was suspended, which is continued for that" do
    launch("sidekiq; echo x") do |launch|
      kill(launch, :STOP, path(launch)["relay"])
      expect_jobs_saved_by_stop(launch)
    end
  end

  # A process that ignores SIGCHLD passes that on to everything it starts, also to the relay, which then gets no signal
  # when a traced process stops.
  { "in the script that starts Sidekiq" => ["bash -c \"trap '' CHLD; sidekiq; echo x\"; echo y", ""],
    "by the application" => ["sidekiq; echo x", 'Signal.trap("CLD", "IGNORE")'] }.each do |where, (text, before)|
    it "stops as usual if SIGCHLD is ignored #{where}" do
      launch(text, before:) do |launch|
        expect(path(launch)).to include("term" => "arrives", "relay" => status(launch, 1)["TracerPid"].to_i)
        expect_jobs_saved_by_stop(launch)
      end
    end
  end

  it "refuses a debugger on a traced shell, and stops as usual" do
    launch("sidekiq; echo x") do |launch|
      code, words = launch.exec("strace", "-p", "1")
      expect([code, words]).to match([1, include("Operation not permitted")])
      expect(path(launch)).to include("term" => "arrives", "relay" => status(launch, 1)["TracerPid"].to_i)
      expect_jobs_saved_by_stop(launch)
    end
  end

  # A shell command that starts an strace before Sidekiq.
  def strace = "strace -qq -o /dev/null -p $$ & until grep -q 'TracerPid:.[1-9]' /proc/$$/status; do sleep 0.1; done"

  it "reports what traces the shell already, and keeps working" do
    launch("#{strace}; sidekiq; echo x") do |launch|
      tracer = status(launch, 1)["TracerPid"]
      expect(path(launch)).to include("term" => "lost", "tstp" => "lost", "relay" => nil)
      expect(Sandbox.messages(launch.records.first))
        .to match([include("may not trace dash (pid 1) because process #{tracer} traces it already: end that tracer")])
      kill(launch, :TSTP, sidekiq(launch))
      expect_to_work(launch)
    end
  end

  it "stops as usual with run in front of a shell that another process traces" do
    form = LaunchForm.line("#{strace}; sidekiq; echo x")
    form.command = ["sidekiq-lifecycle", "run", "--", *form.command]
    LaunchedContainer.open(form) do |launch|
      expect(status(launch, shell(launch))["TracerPid"].to_i).not_to eq(0)
      expect(path(launch)["term"]).to eq("arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "stops as usual once that tracer has ended and Sidekiq was started again" do
    LaunchedContainer.prepared(LaunchForm.line("#{strace}; sidekiq; #{LaunchForm::TARGET}; echo x")) do |launch|
      launch.boot
      launch.await("ready") { launch.ready? }
      kill(launch, :KILL, status(launch, 1)["TracerPid"])
      first = sidekiq(launch)
      kill(launch, :TERM, first)
      launch.await("the next Sidekiq") { launch.ready? && sidekiq(launch) != first }
      expect(path(launch.occupy)["term"]).to eq("arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end

  it "stops as usual if another process traces an inner shell" do
    launch("dash -c '#{strace.gsub("'", "\"")}; sidekiq; echo x'; echo y") do |launch|
      expect(status(launch, shell(launch))["TracerPid"].to_i).not_to eq(path(launch)["relay"])
      expect(path(launch)["term"]).to eq("arrives")
      expect_jobs_saved_by_stop(launch)
    end
  end
end
