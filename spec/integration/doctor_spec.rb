# frozen_string_literal: true

# Each example is a small container: its own PID namespace, in which PID 1 is a shell.
RSpec.describe "the doctor" do
  include DocumentedJSON

  before { skip "no PID namespaces may be made here" unless system("unshare --pid --fork true", err: File::NULL) }

  off = { "SIDEKIQ_LIFECYCLE_SIGNAL_RELAY" => "off" }

  # In the script, "$@" is the command line of Sidekiq.
  def start_in(script, **options)
    start(launcher: %w[unshare --pid --fork --kill-child --mount-proc dash -c] + [script, "dash"], **options)
  end

  def start_ready_in(script, **options)
    await_ready(start_in(script, **options)).tap do
      wait_until("its record says so") do
        record_inside["state"] == "running" && !Sandbox.relay_late?(record_inside)
      end
    end
  end

  # Lets the doctor itself launch the Sidekiq.
  def try(*launcher, json: nil, **options)
    worker = start(launcher: [Sandbox::COMMAND, "doctor", *json, "--", *launcher], **options)
    [worker.exit_code, worker.log]
  end

  def pid1(worker) = File.read("/proc/#{worker.pid}/task/#{worker.pid}/children")[/\d+/].to_i

  # Calls the command as `docker exec` would.
  def command_inside(worker, *arguments, environment: {})
    enter = ["nsenter", "--target", pid1(worker).to_s, "--pid", "--mount", "--root", "--wd"]
    output, status = Open3.capture2e(environment, *enter, Sandbox::COMMAND, *arguments)
    [status.exitstatus, output]
  end

  def doctor_inside(worker, *arguments, **options) = command_inside(worker, "doctor", *arguments, **options)

  def record_inside = JSON.parse(File.read(Dir[file("tmp/sidekiq/processes/*")].first))

  it "reports a worker with a relay as safe, from inside and from outside" do
    worker = start_ready_in('"$@"; true', install: "lifecycle.stop_timeout = 12")
    pid, relay = record_inside.then { |record| [record["pid"], record["signal_path"]["relay"]] }
    tag = record_inside["tag"].then { |tag| " (#{tag})" unless tag.to_s.empty? }
    code, output = doctor_inside(worker)
    expect([code, output]).to eq([0, <<~TEXT])
      Sidekiq #{Sidekiq::VERSION}#{tag}, pid #{pid}, uid 0, running, with sidekiq_lifecycle #{SidekiqLifecycle::VERSION}

        dash (pid 1)        is bypassed by the relay, which forwards TERM
        └─ sidekiq (pid #{pid})  is Sidekiq

        relay      pid #{relay} forwards signals past dash (pid 1)
        signals    blocked: none; ignored: none
        time       -t 8 and Sidekiq's own 4 s fit into the stop timeout of 12 s (lifecycle.stop_timeout)
        directory  #{app}/tmp/sidekiq, owned by uid 0; ready exists, which is correct

      safe
    TEXT
    code, output = command("doctor", "--json")
    expect(code).to eq(0)
    report = JSON.parse(output)
    expect(report).to include("schema" => 3, "verdict" => "safe")
    compare_examined(report)
    expect(report["sidekiqs"].size).to eq(1)
    expect(report["sidekiqs"][0]).to include("own_pid" => pid, "has_gem" => true)
    expect(report["sidekiqs"][0]["signal_path"]["links"].map { |link| link["term"] }).to eq(%w[relayed arrives])
  end

  it "reports that a worker without the relay loses jobs, why, and what to write instead" do
    worker = start_ready_in('"$@"; true', environment: off)
    code, output = doctor_inside(worker)
    expect(code).to eq(1)
    expect(output).to include("dash (pid 1)        drops TERM: it is PID 1 and has no handler for it",
                              "relay      none: signal_relay is off")
    expect(output.lines.last).to eq("loses jobs on stop: a SIGTERM sent to dash (pid 1) is lost, and there is no " \
                                    "relay: signal_relay is off; to fix it, put exec before " \
                                    "the command that starts Sidekiq in `\"$@\"; true`, or put sidekiq-lifecycle " \
                                    "run -- in front of it\n")
    code, output = command("doctor")
    expect([code, output]).to match([1, /dash \(pid #{pid1(worker)}\) +drops TERM: it is PID 1 of its container/])
  end

  it "agrees with strict mode, in which the worker is not ready" do
    worker = start_in('"$@"; true', install: "lifecycle.require_signal_path = true", environment: off)
    wait_until("it runs") { Dir[file("tmp/sidekiq/processes/*")].any? && record_inside["state"] == "running" }
    expect(doctor_inside(worker)).to match([1, /^loses jobs on stop: a SIGTERM sent to dash \(pid 1\) is lost/])
    expect(doctor_inside(worker)[1]).to match(/directory .*neither ready nor drained exists, which is correct$/)
    expect(command_inside(worker, "check"))
      .to match([1, /\Anot ready: process \d+ is running, but a SIGTERM sent to dash \(pid 1\) is lost/])
  end

  it "finds a worker without the gem in /proc" do
    worker = start_in('"$@"; true', gem: false)
    code, output = wait_until("it has started") do
      doctor_inside(worker).then { |answer| answer if answer[1].match?(/Sidekiq #{Sidekiq::VERSION}/) }
    end
    expect(code).to eq(1)
    expect(output).to include("without sidekiq_lifecycle", "neither -t nor the stop timeout is known")
    expect(output.lines.last).to include("loses jobs on stop: a SIGTERM sent to dash (pid 1) is lost, and there is " \
                                         "no relay: this Sidekiq does not use sidekiq_lifecycle")
  end

  it "reports that there is no Sidekiq" do
    code, output = command("doctor", "--dir", file("none"))
    expect(code).to eq(3).or eq(0).or eq(1) # other Sidekiqs may run on this machine
    expect(output).to match(/^could not tell: no Sidekiq is running here: none is/).or match(/^Sidekiq/)
  end

  {
    "lifecycle.stop_timeout" => ["lifecycle.stop_timeout = 10", {}],
    "$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT" =>
      ["", { "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT" => "10", "ECS_CONTAINER_STOP_TIMEOUT" => "60s" }],
    "$ECS_CONTAINER_STOP_TIMEOUT" => ["", { "ECS_CONTAINER_STOP_TIMEOUT" => "10s" }]
  }.each do |source, (install, environment)|
    it "reports timeouts that do not fit (#{source}), as do the log and the status" do
      sentence = "-t 25 and Sidekiq's own 4 s do not fit into the stop timeout of 10 s (#{source}): " \
                 "set -t to at most 6, or the stop timeout to at least 29"
      worker = start_ready_in('exec "$@"', timeout: 25, install:, environment:)
      expect(worker.log.scan(sentence).size).to eq(1)
      expect(Sandbox.messages(record_inside)).to eq([sentence])
      code, output = doctor_inside(worker, environment:)
      expect([code, output.lines.last]).to eq([1, "loses jobs on stop: #{sentence}\n"])
    end
  end

  it "could not tell if the stop timeout is not known, and says what is needed; the log says it once" do
    worker = start_ready_in('exec "$@"', timeout: 25)
    sentence = "the stop timeout is not known and must be at least 29 s (-t 25 and Sidekiq's own 4 s): by default " \
               "Docker and Compose leave 10 s, Kubernetes and ECS 30 s, systemd 90 s; set lifecycle.stop_timeout to " \
               "the platform's value"
    expect(doctor_inside(worker)).to match([3, /^could not tell: #{Regexp.escape(sentence)}\n\z/])
    report = JSON.parse(doctor_inside(worker, "--json")[1])
    expect(report["sidekiqs"][0]["time"]).to include("fit" => "unknown", "words" => sentence, "needed" => 29.0)
    wait_until("it is logged") { worker.log.include?(sentence) }
    expect(worker.log.scan(sentence).size).to eq(1)
    expect(Sandbox.messages(record_inside)).to be_empty
  end

  it "reports a worker as safe once the stop timeout is set as advised" do
    worker = start_ready_in('exec "$@"', timeout: 25, install: "lifecycle.stop_timeout = 29")
    expect(doctor_inside(worker)).to match([0, /^safe\n\z/])
    expect(worker.log).not_to include("stop timeout")
  end

  {
    "is not known" => "",
    "is too short" => "lifecycle.stop_timeout = 11"
  }.each do |what, install|
    it "agrees with strict mode if the stop timeout #{what}" do
      worker = start_in('exec "$@"', install: "lifecycle.require_signal_path = true; #{install}")
      wait_until("it runs") { Dir[file("tmp/sidekiq/processes/*")].any? && record_inside["state"] == "running" }
      expect(command_inside(worker, "check")).to match([1, /\Anot ready: process 1 is running, but .*stop timeout/])
      expect(doctor_inside(worker)[0]).to eq(what == "is not known" ? 3 : 1)
    end
  end

  it "reports a -t below 3 s as too short for any platform" do
    worker = start_ready_in('exec "$@"', timeout: 2, install: "lifecycle.stop_timeout = 60")
    expect(doctor_inside(worker)).to match([1, /^loses jobs on stop: -t 2 is too short: .*; set -t to at least 3,/])
  end

  it "could not tell while a worker boots" do
    worker = start_in('exec "$@"', install: "lifecycle.stop_timeout = 12", after: 'note "loads"; sleep 600')
    wait_until("it boots") { notes.include?("loads") || worker.raise_if_ended }
    expect(doctor_inside(worker)).to match([3, /^could not tell: .*it is still booting; run the doctor again when/])
  end

  it "reports a timeout that is set in Ruby, where generate cannot see it" do
    set = Sandbox::MAJOR == 6 ? "Sidekiq.options" : "Sidekiq.default_configuration"
    worker = start_ready(after: "#{set}[:timeout] = 60", environment: { "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT" => "30" })
    expect(problems_of(worker.pid))
      .to match([start_with("-t 60 and Sidekiq's own 4 s do not fit into the stop timeout of 30 s ($SIDEKIQ_LIFE")])
  end

  it "reports a variable of ECS that is not a duration" do
    worker = start_ready(environment: { "ECS_CONTAINER_STOP_TIMEOUT" => "soon" })
    expect(problems_of(worker.pid)).to eq(["$ECS_CONTAINER_STOP_TIMEOUT is \"soon\", not a duration; set it to a " \
                                           "time above 0, such as 30s, 2m, or a plain number of seconds"])
  end

  it "checks the lifecycle directory" do
    # The next heartbeat would restore the file.
    worker = start_ready_in('exec "$@"', install: "lifecycle.stop_timeout = 12", after: RARE_HEARTBEAT)
    wait_until("the first heartbeat") { redis.call("KEYS", "*:lifecycle", database: @database).any? }
    expect(doctor_inside(worker))
      .to match([0, %r{directory  #{app}/tmp/sidekiq, owned by uid 0; ready exists, which is correct$}])
    FileUtils.mv(ready_file, file("mine"))
    expect(doctor_inside(worker)).to match([0, /the file ready does not exist, but every Sidekiq is ready$/])
    File.symlink(file("mine"), ready_file)
    File.write(file("tmp/sidekiq/.99.x.half-written"), "")
    expect(doctor_inside(worker)[1])
      .to match(/; 1 leftover of a dead process, which the next start removes$.*the file ready does not exist, but/m)
  end

  describe "in a trial" do
    it "measures that the relay forwards a SIGTERM" do
      code, output = try("dash", "-c", '"$@"; true', "dash", timeout: 3, install: "lifecycle.stop_timeout = 7")
      expect([code, output]).to match([0, /^  measured   a SIGTSTP to PID 1 quieted Sidekiq after \d+\.\d s$/])
      expect(output).to match(/^ +a SIGTERM to PID 1 stopped Sidekiq as it should after .*, with a job that ran/)
      expect(output.lines.last).to eq("safe\n")
    end

    it "could not tell how much time the platform leaves" do
      code, output = try("dash", "-c", '"$@"; true', "dash", timeout: 3)
      expect([code, output.lines.last])
        .to match([3, /^could not tell: the stop timeout is not known and must be at least 7 s/])
    end

    it "measures a wrapper that kills before Sidekiq is done" do
      killer = <<~RUBY
        worker = spawn(*ARGV)
        trap("TERM") { Process.kill("TERM", worker) && Thread.new { sleep 1 and Process.kill("KILL", worker) } }
        Process.wait(worker)
      RUBY
      code, output = try("ruby", "-e", killer, timeout: 3, install: "lifecycle.stop_timeout = 7")
      expect([code, output]).to match([1, /a SIGTERM to PID 1 got Sidekiq killed after .*before it had finished/])
    end

    it "prints the measurement as JSON" do
      code, output = try("dash", "-c", '"$@"; true', "dash", json: "--json", timeout: 3,
                                                             install: "lifecycle.stop_timeout = 7")
      report = JSON.parse(output)
      compare_examined(report)
      expect([code, report["sidekiqs"][0]["measured"]]).to match([0, a_hash_including("fate" => "arrives")])
    end

    it "measures that a SIGTERM is lost if the relay is off" do
      code, output = try("dash", "-c", '"$@"; true', "dash", environment: off)
      expect([code, output]).to match([1, /^ +a SIGTERM to PID 1 did not reach Sidekiq within 10 s$/])
    end

    it "measures that Sidekiq is killed too early, also without the gem" do
      code, output = try("bash", "-c", 'trap "exit 0" TERM; "$@" & wait', "bash", gem: false)
      expect([code, output])
        .to match([1, /^ +a SIGTERM to PID 1 got Sidekiq killed after .*before it had finished$/])
    end

    it "measures what it could not tell from outside" do
      fits = { timeout: 3, install: "lifecycle.stop_timeout = 7" }
      code, output = try("bash", "-c", 'trap "kill \$!" TERM; "$@" & wait; wait', "bash", **fits)
      expect([code, output]).to match([0, /has a trap for TERM that runs at once; what it does is not visible$/])
      expect(output)
        .to include("  note       judged from outside, a SIGTERM may not arrive; a real one arrives\n")
    end

    it "does not conclude from the end of an idle worker that the time is long enough" do
      code, output = try("bash", "-c", 'trap "kill \$!" TERM; "$@" & wait; wait', "bash", gem: false)
      expect([code, output]).to match([3, /^ +a SIGTERM to PID 1 stopped an idle Sidekiq as it should after /])
    end

    it "shows what the command printed if it starts no Sidekiq" do
      code, output = try("dash", "-c", 'echo before; "$@"', "dash", after: "raise 'no such thing'")
      expect(code).to eq(3)
      expect(output).to include("no such thing")
      expect(output.lines.last).to start_with("could not tell: the command ended before a Sidekiq had started (exit ")
    end

    it "leaves nothing behind when it is interrupted" do
      trial = start(launcher: [Sandbox::COMMAND, "doctor", "--", "dash", "-c", 'echo "$$" > pid; "$@"; true', "dash"],
                    after: 'note "booting"; sleep 600')
      wait_until("it boots") { notes == ["booting"] }
      child = File.read("/proc/#{trial.pid}/task/#{trial.pid}/children")[/\d+/].to_i
      trial.signal(:INT)
      expect(trial.exit_code).to eq(130)
      wait_until("all have ended") { !File.exist?("/proc/#{child}") }
      expect(Dir[File.join(Dir.tmpdir, "sidekiq-lifecycle-doctor*")]).to be_empty
    end
  end
end
