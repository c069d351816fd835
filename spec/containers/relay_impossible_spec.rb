# frozen_string_literal: true

# Containers in which the relay cannot work. A SIGTERM would be lost there, and the gem reports that in time.
RSpec.describe "a signal path that the relay cannot fix", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { LaunchedContainer.prepare }

  # The shell stays root. Changing the user takes two capabilities.
  def self.other_user(*more, capabilities: [])
    setpriv = ["setpriv --reuid 1000 --regid 1000 --clear-groups", *more].join(" ")
    [LaunchForm.line("#{setpriv} sidekiq; echo x"), { user: 0, capabilities: %w[SETUID SETGID] + capabilities }]
  end

  # The shell belongs to an ordinary user, and its Sidekiq to root.
  def self.root_below_another_user(capabilities: [])
    capabilities += %w[SETUID SETGID DAC_OVERRIDE]
    kept = capabilities.map { |name| "+#{name.downcase}" }.join(",")
    form = LaunchForm.line("setpriv --reuid 0 --regid 0 --clear-groups sidekiq; echo x")
    form.command = [*"setpriv --reuid 1000 --inh-caps #{kept} --ambient-caps #{kept} --".split, *form.command]
    [form, { user: 0, capabilities: }]
  end

  {
    "a seccomp profile that denies ptrace" =>
      [LaunchForm.line("sidekiq; echo x"), { denied: ["ptrace"] },
       "the relay cannot work here because ptrace is refused (EPERM), most likely by a seccomp profile: allow",
       "put sidekiq-lifecycle run -- in front"],
    "a shell of another user" =>
      [*other_user, "the relay may not trace dash (pid 1) because it belongs to another user (uid 0): run both",
       "put sidekiq-lifecycle run -- in front"]
  }.each do |what, (form, container, *words)|
    it "is reported once in the log, and in the status, with what to change: #{what}" do
      LaunchedContainer.open(form, after: QUICK_HEARTBEAT, **container) do |launch|
        beats = launch.records.first["beat"]
        launch.await("the next heartbeat") { launch.records.first["beat"] != beats }
        expect(launch.records).to match([include("signal_path" => include("term" => "lost", "relay" => nil))])
        expect(Sandbox.messages(launch.records.first))
          .to match([include("a SIGTERM sent to dash (pid 1) is lost", *words)])
        expect(launch.log.scan(words.first).size).to eq(1)
        expect(launch.exec("sidekiq-lifecycle", "check")).to eq([0, "ready\n"])
        expect(launch.exec("sidekiq-lifecycle", "doctor")).to match([1, include("loses jobs on stop")])
      end
    end

    it "keeps a strict Sidekiq from being ready, while it works: #{what}" do
      LaunchedContainer.prepared(form, install: "lifecycle.require_signal_path = true", **container) do |launch|
        ready = Watcher.new { launch.ready? }
        launch.boot
        launch.occupy(ready: false)
        launch.await("it works") { launch.short_ended? }
        code, why = launch.exec("sidekiq-lifecycle", "check")
        expect([code, why]).to match([1, include("not ready", "is running, but a SIGTERM", "is lost")])
        expect(launch.records).to match([include("state" => "running", "withheld" => include(words.first))])
        expect(ready.changes).to eq([false])
      end
    end
  end

  # After the advice was followed nothing is wrong any more, and a stop loses nothing.
  def expect_fixed(form, **container)
    install = "lifecycle.stop_timeout = #{SignalOutcome::GENEROUS}"
    LaunchedContainer.open(form, install:, **container) do |launch|
      expect(launch.records).to match([include("problems" => [], "signal_path" => include("term" => "arrives"))])
      expect(launch.exec("sidekiq-lifecycle", "doctor")).to match([0, include("safe")])
      launch.stop(SignalOutcome::GENEROUS)
      expect(launch.exit_code).to eq(0)
      expect(launch).to be_nothing_lost
    end
  end

  def behind(command, form) = form.dup.tap { |other| other.command = [*command.split, *form.command] }
  def behind_run(form) = behind("sidekiq-lifecycle run --", form)

  # Each piece of advice is followed where it is given. (bin/yama does so for Yama, process_failures_spec.rb for a
  # tracer.)
  describe "is fixed by the advice" do
    shell = LaunchForm.line("sidekiq; echo x")

    %w[ptrace pidfd_open pidfd_send_signal signalfd4 timer_create].each do |call|
      it "to allow #{call} in the seccomp profile, as Docker's own does" do
        LaunchedContainer.open(shell, denied: [call]) do |launch|
          expect(launch.log).to match(/because #{call}\b.* is refused.*: allow #{call}\b.* in the seccomp profile, as/)
        end
        expect_fixed(shell)
      end
    end

    it "to put run in front, if ptrace is denied" do
      expect_fixed(behind_run(shell), denied: ["ptrace"])
    end

    it "to put run in front, if the shell belongs to another user" do
      form, container = self.class.other_user(capabilities: ["KILL"])
      expect_fixed(behind_run(form), **container)
    end

    it "to start both as one user" do
      _, container = self.class.other_user
      expect_fixed(behind("setpriv --reuid 1000 --regid 1000 --clear-groups", shell), **container)
    end

    it "to add SYS_PTRACE, which only a worker of root reports" do
      form, container = self.class.root_below_another_user
      LaunchedContainer.open(form, **container) do |launch|
        expect(launch.log).to include("it belongs to another user (uid 1000): run both as one user, or to keep its " \
                                      "command, add the capability SYS_PTRACE")
      end
      form, container = self.class.root_below_another_user(capabilities: ["SYS_PTRACE"])
      expect_fixed(form, **container)
    end
  end

  # A root without SYS_PTRACE may not inspect another user's process.
  describe "is inspected by a doctor that says which user would see everything" do
    def expect_not_seen(user, words)
      LaunchedContainer.open(LaunchForm.line("sidekiq; echo x"), install: "lifecycle.stop_timeout = 30") do |launch|
        doctor = ->(**settings) { launch.exec("sidekiq-lifecycle", "doctor", **settings).last }
        expect(doctor.call(User: user)).to match(/^  not seen .*: the doctor runs as #{words}$/)
        seen = yield doctor
        expect(seen).to match(/\A(?!.*not seen).*^safe$/m)
      end
    end

    it "and does, as that user" do
      expect_not_seen("0", "uid 0; run it as uid 1000 or with docker exec --privileged") do |doctor|
        doctor.call(User: "1000:1000")
      end
    end

    it "and does, as that group" do
      expect_not_seen("1000:0", "uid 1000 and gid 0; run it as uid 1000 and gid 1000 or as root") do |doctor|
        doctor.call(User: "1000:1000")
      end
    end

    it "and does, with docker exec --privileged" do
      expect_not_seen("0", "uid 0; .* or with docker exec --privileged") do |doctor|
        doctor.call(User: "0", Privileged: true).tap do |said|
          skip "Docker may not give every capability here" if said.include?("unable to apply caps")
        end
      end
    end
  end
end
