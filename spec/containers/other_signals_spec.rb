# frozen_string_literal: true

# Signals other than TERM and TSTP, and signals to processes other than PID 1: the relay does not change what they do.
RSpec.describe "with a relay,", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { LaunchedContainer.prepare }

  def launch(text = "sidekiq; echo x", **options, &)
    form = text.is_a?(LaunchForm) ? text : LaunchForm.line(text)
    LaunchedContainer.open(form, after: QUICK_HEARTBEAT, **options, &)
  end

  def worker(launch) = launch.records.fetch(0)["pid"]
  def state(launch) = launch.records.fetch(0)["state"]

  # A signal that had reached the worker would have come before this one, and its job would be lost.
  def expect_usual_stop(launch, code: 0)
    expect(launch).to be_running
    expect(launch.noted("short ends")).to be_empty
    launch.stop(SignalOutcome::GENEROUS)
    expect(launch.exit_code).to eq(code)
    expect(launch).to be_nothing_lost
    expect(launch.records).to all(include("state" => "stopped", "exit_status" => 0))
  end

  %i[off auto].each do |relay|
    %w[USR1 USR2 HUP].each do |signal|
      it "#{signal} does not end a worker without a handler for it, nor its jobs (relay #{relay})" do
        launch(install: "lifecycle.signal_relay = #{relay.inspect}") do |launch|
          launch.signal(signal)
          next expect_usual_stop(launch) unless relay == :off

          # Without the relay, TERM has to be sent to the worker.
          launch.send_inside("TERM", worker(launch))
          expect(launch.exit_code).to eq(0)
          expect(launch).to be_nothing_lost
        end
      end
    end
  end

  it "QUIT stops a worker like TERM" do
    launch do |launch|
      launch.signal("QUIT")
      expect(launch.exit_code).to eq(0)
      expect(launch).to be_nothing_lost
      expect(launch.signals).to eq([["TERM"]])
    end
  end

  %w[USR1 USR2].each do |signal|
    it "#{signal} reaches an application that traps it" do
      launch(after: "#{QUICK_HEARTBEAT}\ntrap(#{signal.inspect}) { note \"has #{signal}\" }") do |launch|
        launch.signal(signal)
        launch.await("it arrives") { launch.noted("has #{signal}").any? }
        expect_usual_stop(launch)
        expect(launch.noted("has #{signal}").size).to eq(1)
      end
    end
  end

  # Notes each USR2, and forwards TERM.
  let(:supervisor) do
    <<~RUBY
      workers = []
      trap("USR2") { File.write("notes", "supervisor has USR2\\n", mode: "a") }
      trap("TERM") { workers.each { |worker| Process.kill(:TERM, worker) } }
      2.times { workers << spawn("#{LaunchForm::TARGET}") }
      workers.each { |worker| Process.wait(worker) }
    RUBY
  end

  it "USR2 reaches a supervisor that traps it, and none of its workers" do
    form = LaunchForm.new(name: "tini -- dash -c 'ruby script; true'", script: supervisor, sidekiqs: 2, timeout: 5,
                          command: ["tini", "--", "dash", "-c", "ruby script; true"], before: "", init: false)
    launch(form) do |launch|
      launch.signal("USR2")
      launch.await("the supervisor has it") { launch.noted("supervisor has USR2").any? }
      expect_usual_stop(launch)
      expect(launch.noted("supervisor has USR2").size).to eq(1)
      expect(launch.signals).to eq([["TERM"], ["TERM"]])
    end
  end

  # As people write in their scripts; the pattern does not match the shell that runs it.
  { "pgrep" => "pgrep -nf '[s]idekiq'", "ps" => "ps -eo pid,args | grep '[s]idekiq' | tail -n 1 | awk '{ print $1 }'" }
    .each do |tool, newest|
      it "the newest process that #{tool} finds as sidekiq is the worker, for TSTP and for TERM" do
        launch do |launch|
          expect(launch.exec("dash", "-c", "kill -TSTP $(#{newest})")).to eq([0, ""])
          launch.await("it is quiet") { state(launch) == "quiet" }
          launch.exec("dash", "-c", "kill -TERM $(#{newest})")
          expect(launch.exit_code).to eq(0)
          expect(launch).to be_nothing_lost
        end
      end
    end

  it "there are as many processes named sidekiq as without it" do
    counts = %i[off auto].map do |relay|
      launch(install: "lifecycle.signal_relay = #{relay.inspect}") do |launch|
        expect(launch.relays.size).to eq(relay == :auto ? 1 : 0)
        ["-fc", "-c"].map { |option| launch.exec("dash", "-c", "pgrep #{option} '[s]idekiq'").last.to_i }
      end
    end
    expect(counts.last).to eq(counts.first)
  end

  it "TSTP, TTIN and TERM that are sent only to the relay reach the worker" do
    launch do |launch|
      relay = launch.relays.fetch(0)
      launch.send_inside("TTIN", relay)
      launch.await("TTIN arrives") { launch.signals == [["TTIN"]] }
      launch.send_inside("TSTP", relay)
      launch.await("it is quiet") { state(launch) == "quiet" }
      launch.send_inside("TERM", relay)
      expect(launch.exit_code).to eq(0)
      expect(launch).to be_nothing_lost
      expect(launch.signals).to eq([%w[TTIN TSTP TERM]])
    end
  end

  %w[INT QUIT].each do |signal|
    it "#{signal} that is sent only to the relay stops the worker" do
      launch do |launch|
        launch.send_inside(signal, launch.relays.fetch(0))
        expect(launch.exit_code).to eq(0)
        expect(launch).to be_nothing_lost
      end
    end
  end

  # A signal that arrives in a handler for TERM finds TERM blocked, as by an init that waits for its signals.
  describe "PID 1 that has become a program with a handler for TERM" do
    let(:web) { LaunchForm::WEB.sub("; sleep", '; File.write("notes", "web waits\\n", mode: "a"); sleep') }
    let(:late) { "sidekiq & until [ -e become ]; do sleep 0.1; done; exec #{web}" }

    def expect_held(launch)
      expect(launch.exit_code).to eq(3)
      expect(launch.noted("web hears TERM").size).to eq(1)
      expect(launch).to be_nothing_lost
      expect(launch.records).to all(include("state" => "stopped", "exit_status" => 0))
    end

    def become_web(launch)
      launch.exec("touch", "become")
      launch.await("the program waits") { launch.noted("web waits").any? }
    end

    it "is held at its exit, also if it has become that late" do
      launch(late) do |launch|
        become_web(launch)
        launch.signal("TERM")
        expect_held(launch)
      end
    end

    it "is held at its exit, also if a TSTP or a TTIN comes with the TERM" do
      %w[TSTP TTIN].each do |other|
        launch(late) do |launch|
          become_web(launch)
          # So that both have arrived when the relay sees the first. It goes on by itself.
          launch.send_inside("STOP", launch.relays.fetch(0))
          launch.signal(other)
          launch.signal("TERM")
          expect_held(launch)
        end
      end
    end
  end
end
