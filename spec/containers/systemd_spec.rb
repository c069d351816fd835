# frozen_string_literal: true

# The units that `generate systemd` writes, unchanged, with a real systemd.
RSpec.describe "a service of systemd", :containers, skip: SystemdMachine.missing do
  before(:context) { Container.prepare }

  # A slow machine may take longer to boot a Sidekiq than generate writes.
  def with_machine(service: "", start_timeout: 600, **options, &block)
    service = "TimeoutStartSec=#{start_timeout}\n#{service}" if start_timeout
    SystemdMachine.open(service:, **options, &block)
  end

  # A job that runs until the file `go` is there.
  waiting_job = 'note "begins"; sleep 0.05 until File.exist?("go"); note "ends"'
  quick_heartbeat = "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}"

  def start_job(machine, job)
    machine.push(job)
    machine.wait_for_note("begins")
  end

  def go(machine) = FileUtils.touch(machine.file("go"))

  it "is active when it is ready, shows its state, goes quiet, and stops after its job" do
    startup = 'note "starting"; sleep 0.05 until File.exist?("start")'
    with_machine(before: quick_heartbeat, startup:, start_timeout: nil) do |machine|
      machine.start("sidekiq", "--no-block")
      machine.wait_for_note("starting")
      expect(machine.show).to include("ActiveState" => "activating", "StatusText" => "booting")
      # How systemd reads the unit's numbers.
      expect(machine.show).to include("TimeoutStartUSec" => "2min", "TimeoutStopUSec" => "30s",
                                      "WatchdogUSec" => "1min", "KillMode" => "mixed", "NotifyAccess" => "main")
      FileUtils.touch(machine.file("start"))
      machine.wait_until("active") { machine.show["ActiveState"] == "active" }
      # On a slow disk it follows a moment later.
      machine.wait_until("the ready file") { File.exist?(machine.ready_file) }
      # There is no env, bundler or shell in front of it.
      expect(machine.show["MainPID"]).to eq(machine.lifecycle("status").last[/^\d+/])
      machine.wait_for_status("running, 0 of 2 busy")
      start_job(machine, waiting_job)
      machine.wait_for_status("running, 1 of 2 busy")
      expect(machine.systemctl("status", "sidekiq").last).to include('Status: "running, 1 of 2 busy"')

      expect(machine.systemctl("kill", "-s", "TSTP", "--kill-whom=main", "sidekiq")).to eq([0, ""])
      machine.wait_for_status(/\Aquiet, 1 of 2 busy: Evaluate \S+ \(queue default, running for #{DURATION}\)\z/)
      expect(machine.show).to include("ActiveState" => "active")
      machine.systemctl("stop", "--no-block", "sidekiq")
      machine.wait_for_status(/\Astopping, 1 of 2 busy: Evaluate /)
      expect(machine.show).to include("ActiveState" => "deactivating", "SubState" => "stop-sigterm")
      go(machine)
      machine.wait_until("stopped") { machine.show["ActiveState"] == "inactive" }
      expect(machine.show).to include("Result" => "success", "NRestarts" => "0")
      expect(machine.notes).to eq(%w[starting begins ends])
    end
  end

  it "loses no job at a restart: a short job ends, a long one is back in the queue" do
    with_machine(timeout: 6) do |machine|
      expect(machine.start).to eq([0, ""])
      machine.push(<<~RUBY)
        child = Process.spawn("sleep 60")
        note "short"
        sleep 0.05 while ready?
        sleep 0.5
        note "short ends, its child \#{Process.wait(child, Process::WNOHANG) ? "has been killed" : "lives"}"
        Process.kill(:KILL, child)
      RUBY
      machine.push('if File.exist?("long") then note "again" else File.write("long", ""); note "long"; sleep end')
      %w[short long].each { |name| machine.wait_for_note(name) }
      pid = machine.show["MainPID"]
      expect(machine.systemctl("restart", "sidekiq")).to eq([0, ""])
      expect(machine.show).to include("ActiveState" => "active")
      expect(machine.show["MainPID"]).not_to eq(pid)
      machine.wait_for_note("again")
      expect(machine.notes).to contain_exactly("short", "long", "short ends, its child lives", "again")
      expect(machine.queued).to eq(0)
    end
  end

  it "gets the time that -t needs, although TimeoutStopSec is shorter" do
    with_machine(service: "TimeoutStopSec=10", timeout: 60) do |machine|
      machine.start
      expect(machine.doctor).to match([0, /so systemd is asked for more when it stops: -t 60 and Sidekiq's own 4 s/])
      start_job(machine, 'note "begins"; sleep 0.05 while ready?; sleep 15; note "ends"')
      expect(machine.systemctl("stop", "sidekiq")).to eq([0, ""])
      expect(machine.show).to include("ActiveState" => "inactive", "Result" => "success")
      expect(machine.notes).to eq(%w[begins ends])
    end
  end

  it "does not get that time if systemd does not listen, and the doctor reports it" do
    simple = "Type=simple\nNotifyAccess=none\nWatchdogSec=0\nTimeoutStopSec=10"
    with_machine(service: simple, timeout: 60) do |machine|
      machine.start
      machine.wait_until("ready") { File.exist?(machine.ready_file) }
      expect(machine.show["StatusText"].to_s).to eq("")
      expect(machine.doctor).to match([1, /-t 60 and Sidekiq's own 4 s do not fit into the stop timeout of 10 s/])
    end
  end

  describe "whose main process is a shell" do
    # As generate writes it, but below a shell.
    def below_shell(more = "")
      "ExecStart=\nExecStart=/bin/bash -c '/usr/bin/env bundle exec sidekiq -e production; true'\n#{more}"
    end

    it "cannot notify systemd, and reports what to change" do
      with_machine(service: below_shell, before: quick_heartbeat) do |machine|
        machine.start("sidekiq", "--no-block")
        machine.wait_until("it is reported") { machine.doctor.last.include?("systemd accepts notifications only") }
        expect(machine.doctor.last).to match(/pid \d+ \(bash\), not from this one.* or set NotifyAccess=all$/)
        expect(machine.show).to include("ActiveState" => "activating")
      end
    end

    it "can notify systemd with NotifyAccess=all" do
      # Without D-Bus, as here, systemd answers only root.
      heard = below_shell("NotifyAccess=all\nUser=root\nGroup=root")
      with_machine(service: heard, before: quick_heartbeat) do |machine|
        expect(machine.start).to eq([0, ""])
        expect(machine.show).to include("ActiveState" => "active")
        expect(machine.doctor.last).not_to include("systemd accepts notifications only")
      end
    end
  end

  it "is killed by the watchdog when Ruby is stuck, and started again" do
    # It holds the GVL and waits for a file lock that it has itself.
    stuck = <<~RUBY
      require "fiddle"
      int = Fiddle::TYPE_INT
      flock = Fiddle::Function.new(Fiddle.dlopen(nil)["flock"], [int, int], int, need_gvl: true)
      locks = Array.new(2) { File.open("lock", "w") }
      locks.first.flock(File::LOCK_EX)
      note "stuck"
      flock.call(locks.last.fileno, File::LOCK_EX)
    RUBY
    with_machine(service: "WatchdogSec=15", before: quick_heartbeat) do |machine|
      machine.start
      pid = machine.show["MainPID"]
      # The watchdog is fed while Ruby runs, with or without jobs.
      machine.push('sleep 20; note "slept"')
      machine.wait_for_note("slept")
      expect(machine.show).to include("MainPID" => pid, "NRestarts" => "0")
      machine.push(stuck)
      machine.wait_for_note("stuck")
      machine.wait_until("started again") { machine.show.values_at("NRestarts", "ActiveState") == %w[1 active] }
      expect(machine.show["MainPID"]).not_to eq(pid)
    end
  end

  it "may have several instances of a template" do
    with_machine do |machine|
      expect(machine.systemctl("start", "sidekiq@1", "sidekiq@2")).to eq([0, ""])
      %w[1 2].each { |name| machine.wait_for_status("running, 0 of 2 busy", "sidekiq@#{name}") }
      machine.systemctl("kill", "-s", "TSTP", "--kill-whom=main", "sidekiq@1")
      machine.wait_for_status("quiet, drained", "sidekiq@1")
      expect(machine.show("sidekiq@2")["StatusText"]).to eq("running, 0 of 2 busy")
    end
  end

  it "is controlled by its user with the commands of sudoers, and no others" do
    with_machine do |machine|
      expect(machine.exec("visudo", "-c").first).to eq(0)
      expect(machine.sudo_systemctl("start", "sidekiq")).to eq([0, ""])
      expect(machine.sudo_systemctl("kill", "-s", "TSTP", "--kill-whom=main", "sidekiq")).to eq([0, ""])
      machine.wait_for_status("quiet, drained")
      expect(machine.sudo_systemctl("restart", "sidekiq")).to eq([0, ""])
      machine.wait_for_status("running, 0 of 2 busy")
      [%w[stop basic.target], %w[kill -s KILL sidekiq], %w[restart sidekiq basic.target]].each do |words|
        expect(machine.sudo_systemctl(*words).first).to eq(1)
      end
      expect(machine.show).to include("ActiveState" => "active")
    end
  end

  it "is started again and again until it can start" do
    with_machine(service: "RestartSec=100ms\nExecStartPre=/usr/bin/test -e needed") do |machine|
      expect(machine.start.first).to eq(1)
      # More often than systemd would try by default.
      machine.wait_until("started often") { machine.show["NRestarts"].to_i > 5 }
      FileUtils.touch(machine.file("needed"))
      machine.wait_until("active") { machine.show["ActiveState"] == "active" }
    end
  end

  it "has not failed when it is stopped during its boot" do
    guarded = 'require "sidekiq_lifecycle"; Sidekiq.configure_server { |config| SidekiqLifecycle.install(config) }'
    with_machine(before: "#{guarded}; note \"boots\"; sleep") do |machine|
      machine.start("sidekiq", "--no-block")
      machine.wait_for_note("boots")
      expect(machine.systemctl("stop", "sidekiq")).to eq([0, ""])
      expect(machine.show).to include("ActiveState" => "inactive", "Result" => "success")
    end
  end
end
