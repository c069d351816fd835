# frozen_string_literal: true

# Containers in which the relay is refused what it needs. A SIGTERM would be lost there, and that is told in time.
RSpec.describe "a signal path that cannot be mended", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { Launch.prepare }

  # The shell stays root. To change the user takes two capabilities.
  def self.other_user(*more, capabilities: [])
    setpriv = ["setpriv --reuid 1000 --regid 1000 --clear-groups", *more].join(" ")
    [Form.line("#{setpriv} sidekiq; echo x"), { user: 0, capabilities: %w[SETUID SETGID] + capabilities }]
  end

  {
    "a seccomp profile that denies ptrace" =>
      [Form.line("sidekiq; echo x"), { denied: ["ptrace"] },
       "the relay cannot work here, for ptrace is refused (EPERM), most likely by a seccomp profile: add the cap",
       "or use the default seccomp profile"],
    "a shell of another user" =>
      [*other_user, "the relay may not trace dash (pid 1), for it belongs to another user (uid 0): start both as one"]
  }.each do |what, (form, container, *words)|
    it "is told once in the log, and in the status, with what to change: #{what}" do
      Launch.open(form, after: QUICK_BEAT, **container) do |launch|
        beats = launch.records.first["beat"]
        launch.await("the next beat") { launch.records.first["beat"] != beats }
        expect(launch.records).to match([include("signal_path" => include("term" => "lost", "relay" => nil))])
        expect(launch.records.first["problems"])
          .to match([include("a SIGTERM sent to dash (pid 1) is lost", *words)])
        expect(launch.log.scan(words.first).size).to eq(1)
        expect(launch.exec("sidekiq-lifecycle", "check")).to eq([0, "ready\n"])
        expect(launch.exec("sidekiq-lifecycle", "doctor")).to match([1, include("loses jobs on stop")])
      end
    end

    it "keeps a strict Sidekiq from being called ready, while it works: #{what}" do
      Launch.prepared(form, install: "lifecycle.require_signal_path = true", **container) do |launch|
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

  it "can be mended for another user's shell: Sidekiq is started with the capability SYS_PTRACE" do
    form, container = self.class.other_user("--inh-caps +sys_ptrace --ambient-caps +sys_ptrace",
                                            capabilities: ["SYS_PTRACE"])
    Launch.open(form, install: "lifecycle.stop_timeout = #{Outcome::GENEROUS}", **container) do |launch|
      expect(launch.records).to match([include("problems" => [], "signal_path" => include("term" => "arrives"))])
      expect(launch.exec("sidekiq-lifecycle", "doctor")).to match([0, include("safe")])
      launch.stop(Outcome::GENEROUS)
      expect(launch.exit_code).to eq(0)
      expect(launch).to be_nothing_lost
    end
  end
end
