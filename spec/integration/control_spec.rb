# frozen_string_literal: true

require "io/console"
require "pty"

RSpec.describe "quiet, stop, wait and status, on this machine" do
  def names(worker) = "process #{worker.pid}"

  # What the command prints with --json: [exit status, the JSON].
  def ask(*arguments)
    json, _, status = Open3.capture3(Sandbox::COMMAND, *arguments.map(&:to_s), "--json", chdir: app)
    [status.exitstatus, JSON.parse(json)]
  end

  # The command, in the background; returns when it has printed its first line.
  def begin_command(*arguments)
    first = Queue.new
    thread = Thread.new do
      Open3.popen2e(Sandbox::COMMAND, *arguments.map(&:to_s), chdir: app) do |_, out, ended|
        said = out.gets
        first << true
        said += out.read
        [ended.value.exitstatus, said]
      end
    end
    thread.tap { first.pop }
  end

  # Starts jobs that run until {#release}.
  def occupy(jobs: 1)
    jobs.times { |n| push("Evaluate", %(note "#{n} begins"; sleep 0.02 until File.exist?("go"); note "#{n} ends")) }
    wait_until("the jobs begin") { notes.grep(/begins/).size == jobs }
  end

  def state(worker) = record(worker.pid)&.values_at("state", "drained")

  # Quiets it, and waits until it knows that a job still runs.
  def quiet_busy(worker)
    worker.signal(:TSTP)
    wait_until("quiet and busy") { record(worker.pid).values_at("state", "busy") == ["quiet", 1] }
  end

  # The command at its own terminal: yields the terminal and what was shown so far; returns the exit status and
  # everything that was shown.
  def at_terminal(*arguments)
    shown = +""
    PTY.spawn({ "TERM" => "xterm" }, Sandbox::COMMAND, *arguments, chdir: app) do |terminal, keys, pid|
      terminal.winsize = [24, 100]
      reader = Thread.new do
        loop { shown << terminal.readpartial(4096).force_encoding("UTF-8") }
      rescue EOFError, Errno::EIO
        nil
      end
      yield terminal, keys, shown
      status = nil
      wait_until("the command ends: #{shown}") { status ||= Process.wait2(pid, Process::WNOHANG)&.last }
      reader.join
      return [status.exitstatus, shown]
    end
  end

  describe "quiet" do
    it "sends the signal and returns" do
      worker = start_ready
      occupy
      expect(command("quiet")).to eq([0, "sent SIGTSTP to #{names(worker)}\n"])
      wait_until("quiet") { state(worker) == ["quiet", false] }
      expect(command("wait", "quiet").first).to eq(0)
      expect(check("ready").first).to eq(1)
    end

    it "waits for the drain, prints its progress, and skips a process that is quiet already" do
      worker = start_ready
      occupy(jobs: 2)
      waiting = begin_command("quiet", "--wait", "--timeout", "10m")
      wait_until("quiet") { state(worker) == ["quiet", false] }
      expect(waiting).to be_alive
      release
      code, said = waiting.value
      expect(code).to eq(0)
      expect(said.lines.first).to match(/\A0 of 1 drained(, [12] jobs? running)?\n\z/)
      expect(said.lines.last).to match(/\Adrained after #{DURATION}: #{names(worker)}\n\z/)
      expect([state(worker), notes.grep(/ends/).size]).to eq([["quiet", true], 2])
      expect(command("quiet", "--wait")).to match([0, /\Adrained after #{DURATION}: #{names(worker)}\n\z/])
    end

    it "exits with 124 after --timeout, and says what stays in effect and what to do" do
      worker = start_ready
      occupy
      quiet_busy(worker)
      code, said = command("quiet", "--wait", "--timeout", "1s")
      expect(code).to eq(124)
      expect(said.lines.last).to start_with("timed out after 1 s, not drained: #{names(worker)} is quiet, ")
      stays = "; #{names(worker)} stays quiet: to keep waiting, run sidekiq-lifecycle wait drained; to " \
              "stop it, run sidekiq-lifecycle stop\n"
      expect(said).to end_with(stays)
      expect(state(worker)).to eq(["quiet", false])
    end
  end

  describe "stop" do
    it "waits until every process has ended; a second time there is nothing to do" do
      workers = %w[one two].map { |name| start(name:) }
      workers.each { |worker| wait_until("ready") { record(worker.pid)&.fetch("state") == "running" } }
      code, said = command("stop")
      expect([code, said.lines.last]).to match([0, /\Astopped after #{DURATION}: 2 processes \(\d+, \d+\)\n\z/])
      expect(workers.map(&:exit_code)).to eq([0, 0])
      code, said = command("stop")
      expect([code, said]).to match([0, /\Astopped already: process \d+ has stopped \(exit 0, SIGTERM\)\n\z/])
      ended = "process #{workers.first.pid} has stopped (exit 0, SIGTERM)\n"
      expect(command("stop", "--pid", workers.first.pid)).to eq([0, "stopped already: #{ended}"])
      expect(command("wait", "drained", "--pid", workers.first.pid)).to eq([0, "drained already: #{ended}"])
      expect(command("wait", "ready", "--pid", workers.first.pid)).to eq([1, "not ready: #{ended}"])
    end

    it "drains first" do
      worker = start_ready
      occupy
      stopping = begin_command("stop", "--drain-first", "--timeout", "10m")
      wait_until("quiet") { state(worker) == ["quiet", false] }
      release
      expect(stopping.value).to match([0, /^stopped after #{DURATION}: #{names(worker)}\n\z/])
      expect([worker.exit_code, notes.last, queued]).to eq([0, "0 ends", 0])
    end

    it "sends no TERM if the drain takes too long" do
      worker = start_ready
      occupy
      quiet_busy(worker)
      code, said = command("stop", "--drain-first", "--timeout", "1s")
      expect([code, said]).to match([124, /stays quiet: to keep waiting, run sidekiq-lifecycle wait drained/])
      expect(state(worker)).to eq(["quiet", false])
    end

    it "reports whose jobs Sidekiq has interrupted" do
      worker = start_ready(timeout: 1)
      occupy
      code, said = command("stop")
      interrupted = "#{names(worker)}: 1 job interrupted at Sidekiq's shutdown timeout and pushed back to Redis: " \
                    "#{named_job('\h{24}', '\w+')}"
      expect([code, said.lines.last]).to match([0, /\Astopped after #{DURATION}: #{names(worker)}; #{interrupted}\n\z/])
    end

    it "kills a process that does not end, and reports its jobs as lost" do
      worker = start_ready(timeout: 60)
      occupy
      code, said = command("stop", "--kill-after", "1s")
      expect(code).to eq(1)
      expect(said).to include("#{names(worker)} has not ended within 1 s of SIGTERM: killed\n")
      job = named_job('\h{24}', '\w+')
      expect(said.lines.last).to match(/\Akilled #{names(worker)}: (its|any) running jobs are lost(: #{job})?\n\z/)
      expect(worker.exit_code).to eq(137)
    end

    it "reports a suspended process, and what to do" do
      worker = start_ready
      worker.signal(:STOP)
      wait_until("it is suspended") { File.read("/proc/#{worker.pid}/stat").split[2] == "T" }
      code, said = command("stop", "--timeout", "1s")
      expect(code).to eq(124)
      frozen = "it is suspended (SIGSTOP or Ctrl-Z) and handles no signal, resume it with kill -CONT #{worker.pid};"
      sent = "SIGTERM was sent to #{names(worker)}: to keep waiting, run sidekiq-lifecycle wait stopped"
      expect(said.lines.last).to include(frozen, sent)
      worker.signal(:CONT)
      expect(command("wait", "stopped", "--pid", worker.pid).first).to eq(0)
      expect(worker.exit_code).to eq(0)
    end
  end

  describe "wait" do
    it "waits for ready through a directory that is not there yet, and a process that dies" do
      waiting = begin_command("wait", "ready", "--timeout", "5m")
      doomed = start(startup: "sleep")
      wait_until("booting") { record(doomed.pid) || doomed.raise_if_ended }
      doomed.kill
      expect(waiting).to be_alive
      worker = start(name: "next")
      expect(waiting.value).to match([0, /^ready after #{DURATION}: #{names(worker)}\n\z/])
    end

    it "does not wait for a process that has ended or will never be ready" do
      worker = start(startup: "sleep")
      wait_until("booting") { record(worker.pid) || worker.raise_if_ended }
      waiting = begin_command("wait", "ready", "--pid", worker.pid)
      worker.kill
      expect(waiting.value).to match([1, /^not ready: #{names(worker)} is gone\n\z/])
      quiet = start_ready(name: "quiet")
      command("quiet", "--pid", quiet.pid)
      wait_until("quiet") { record(quiet.pid)["state"] == "quiet" }
      expect(command("wait", "ready", "--pid", quiet.pid))
        .to eq([1, "not ready: #{names(quiet)} is quiet and will not be ready again\n"])
    end

    it "fails if a process ends without having drained" do
      worker = start_ready(timeout: 1)
      occupy
      command("quiet")
      waiting = begin_command("wait", "drained")
      worker.signal(:TERM)
      ending = /^not drained: #{names(worker)} has stopped \(exit 0, SIGTERM, 1 job interrupted\)\n\z/
      expect(waiting.value).to match([1, ending])
    end

    it "fails if there is no process to wait for" do
      missing = "#{file("tmp/sidekiq")} does not exist: no Sidekiq has registered there\n"
      expect(command("wait", "drained")).to eq([1, missing])
      FileUtils.mkdir_p(file("tmp/sidekiq/processes"))
      expect(command("stop")).to eq([1, "no Sidekiq has registered in #{file("tmp/sidekiq")}\n"])
      expect(command("wait", "ready", "--timeout", "1s"))
        .to match([124, /^timed out after #{DURATION}: no Sidekiq has registered here\n\z/])
    end

    it "prints JSON" do
      worker = start_ready
      expect(ask("wait", "ready")).to match(
        [0, { "schema" => 2, "outcome" => "reached", "reason" => /\Aready after/,
              "processes" => [a_hash_including("pid" => worker.pid, "ready" => true)] }]
      )
      expect(ask("stop")).to match(
        [0, a_hash_including("outcome" => "reached", "processes" => [
                               a_hash_including("exists" => false, "record" => a_hash_including("exit_status" => 0))
                             ])]
      )
    end
  end

  describe "identity" do
    it "never signals a process that has got a worker's old pid" do
      worker = start_ready
      innocent = spawn("sleep", "3600", in: File::NULL)
      path = file("tmp/sidekiq/processes", innocent.to_s)
      planted = JSON.generate(record(worker.pid).merge("pid" => innocent, "start_time" => 1))
      File.write(path, planted)
      expect(command("quiet", "--wait")).to match([0, /^drained after #{DURATION}: #{names(worker)}\n\z/])
      File.write(path, planted)
      expect(command("stop").first).to eq(0)
      worker.exit_code
      File.write(path, planted)
      expect(command("stop", "--kill-after", "1s").first).to eq(0)
      expect(command("stop", "--pid", innocent)).to eq([1, "process #{innocent} (sleep) is not a Sidekiq\n"])
      expect(Process.wait(innocent, Process::WNOHANG)).to be_nil
      expect(File.read("/proc/#{innocent}/stat")).to match(/\) S /)
    ensure
      Process.kill(:KILL, innocent)
      Process.wait(innocent)
    end

    # What the command prints to another user.
    def as_nobody(*arguments, chdir: app)
      File.chmod(0o755, app)
      native = file("sidekiq-lifecycle")
      FileUtils.cp(Sandbox::COMMAND, native)
      as = %w[setpriv --reuid 65534 --clear-groups]
      said, status = Open3.capture2e(*as, native, *arguments.map(&:to_s), chdir:)
      expect(status.exitstatus).to eq(1)
      said
    end

    it "sends nothing if one process belongs to another user" do
      skip "needs root" unless Process.uid.zero?
      worker = start_ready
      expect(as_nobody("stop")).to eq("process #{worker.pid} belongs to uid 0; run this as that user or as root " \
                                      "(no signal was sent)\n")
      expect(state(worker)).to eq(["running", false])
    end

    it "does not take a process that it may not inspect for a Sidekiq without the gem" do
      skip "needs root" unless Process.uid.zero?
      worker = start_ready
      hidden = "it belongs to uid 0 and may not be inspected; run this as that user or as root"
      expect(as_nobody("wait", "drained", "--pid", worker.pid, chdir: "/"))
        .to eq("wait drained needs the record of process #{worker.pid}: #{hidden}\n")
      FileUtils.chmod(0o700, file("tmp/sidekiq"))
      expect(as_nobody("wait", "drained"))
        .to eq("#{file("tmp/sidekiq")} is not accessible to uid 65534 (Permission denied); " \
               "run this as a user who may read it, or as root\n")
    end
  end

  describe "one process, or all" do
    it "finds a directory anywhere, by the descriptor that its process keeps open" do
      Dir.mktmpdir do |elsewhere|
        worker = start(install: "lifecycle.directory = #{elsewhere.inspect}")
        expect(command("wait", "ready", "--dir", elsewhere).first).to eq(0)
        expect(command("status", "--pid", worker.pid)).to match([0, /^#{worker.pid} +running/])
        report = ask("status", "--all").last
        expect(report["directory"]).to be_nil
        expect(report["processes"]).to include(
          a_hash_including("pid" => worker.pid, "ready" => true, "directory" => File.realpath(elsewhere))
        )
        expect(check("ready", "--pid", worker.pid)).to eq([0, "ready\n"])
        expect(command("stop", "--pid", worker.pid).first).to eq(0)
        expect(worker.exit_code).to eq(0)
      end
    end

    it "finds a directory that was deleted and created again" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      FileUtils.rm_rf(file("tmp"))
      wait_until("it is created again") { record(worker.pid) }
      wait_until("found") { check("ready", "--pid", worker.pid) == [0, "ready\n"] }
    end

    it "reaches into containers" do
      skip "needs root" unless Process.uid.zero?
      start(launcher: %w[unshare --mount --pid --mount-proc --fork --kill-child])
      wait_until("ready") { File.exist?(ready_file) }
      inside = ask("status", "--all").last["processes"].find do |process|
        File.identical?(process["directory"].to_s, file("tmp/sidekiq"))
      end
      pid = inside["pid"]
      expect(inside["record"]["pid"]).to eq(1)
      expect(pid).not_to eq(1)
      expect(command("quiet", "--wait", "--pid", pid).last).to match(/^drained after #{DURATION}: process #{pid}\n\z/)
      # A directory that is visible from outside works as well.
      expect(command("stop")).to match([0, /^stopped after #{DURATION}: process #{pid}\n\z/])
    end

    it "does what works without the gem, and refuses the rest before it sends any signal" do
      worker = start(gem: false)
      wait_until("started") { File.read("/proc/#{worker.pid}/cmdline").start_with?("sidekiq #{Sidekiq::VERSION}") }
      refused = "needs the record of process #{worker.pid}: none was found, and only a Sidekiq with " \
                "sidekiq_lifecycle writes one"
      [%w[wait drained], %w[wait ready], %w[quiet --wait], %w[stop --drain-first]].each do |words|
        untold = " (no signal was sent)" unless words.first == "wait"
        expect(command(*words, "--pid", worker.pid)).to match([1, /#{refused}#{Regexp.escape(untold.to_s)}\n\z/])
      end
      expect(worker.log).not_to match(/TSTP|quiet/i)
      expect(command("quiet", "--pid", worker.pid)).to eq([0, "sent SIGTSTP to #{names(worker)}\n"])
      wait_until("it handles the signal") { worker.log.match?(/TSTP|no longer accepting/i) }
      expect(command("stop", "--pid", worker.pid)).to match([0, /^stopped after/])
      expect(command("stop", "--pid", worker.pid))
        .to match([1, /\Athere is no process #{worker.pid}\n|is not a Sidekiq/])
      expect(worker.exit_code).to eq(0)
    end

    it "ignores another Ruby program with the word sidekiq among its arguments" do
      skip "would stop the Sidekiqs of this machine" unless ENV["IN_ROOT"]
      File.write(file("gem.rb"), %(puts "here"; $stdout.flush; sleep))
      worker = start_ready
      IO.popen(%w[ruby gem.rb install sidekiq], chdir: app) do |other|
        expect(other.gets).to eq("here\n")
        expect(ask("status", "--all").last["processes"].map { |process| process["pid"] }).to eq([worker.pid])
        expect(command("quiet", "--all")).to eq([0, "sent SIGTSTP to #{names(worker)}\n"])
        expect(command("stop", "--all")).to match([0, /^stopped after #{DURATION}: #{names(worker)}\n\z/])
        expect(Process.wait(other.pid, Process::WNOHANG)).to be_nil
      ensure
        Process.kill(:KILL, other.pid)
      end
    end

    it "stops every Sidekiq" do
      skip "would stop the Sidekiqs of this machine" unless ENV["IN_ROOT"]
      with = start_ready(name: "with")
      without = start(gem: false, name: "without")
      wait_until("started") { File.read("/proc/#{without.pid}/cmdline").start_with?("sidekiq #{Sidekiq::VERSION}") }
      expect(command("stop", "--all")).to match([0, /^stopped after #{DURATION}: 2 processes/])
      expect([with, without].map(&:exit_code)).to eq([0, 0])
      expect(command("stop", "--all")).to eq([1, "no Sidekiq is running here\n"])
    end
  end

  describe "at a terminal" do
    it "draws a progress bar, also after the terminal has changed its size" do
      worker = start_ready
      occupy
      code, shown = at_terminal("quiet", "--wait", "--timeout", "10m") do |terminal, _, drawn|
        wait_until("a job is drawn") { drawn.include?("0 of 1 drained, 1 job running") }
        wait_until("the time is drawn") { drawn.match?(/\[ {20}\].* 0 of 1 drained.*\d s, \d min \d+ s left/) }
        terminal.winsize = [24, 30]
        from = drawn.size
        # What is drawn before the first narrow line may be as wide as before.
        wait_until("it is drawn narrower, twice") { drawn[from..].count("…") > 1 }
        narrow = drawn[from..].partition("…").last.split(/\r\n|\e\[\d*[A-Z]/)
        lines = narrow.map { |line| line.gsub(/\e\[[\d;]*m/, "").delete("\r") }
        expect(lines.map(&:size).max).to be < 30
        terminal.winsize = [24, 100]
        release
      end
      expect([code, shown.lines.last]).to match([0, /drained after #{DURATION}: #{names(worker)}\r\n\z/])
    end

    it "shows what keeps a wait waiting, and how to resume a process that is suspended" do
      worker = start_ready
      worker.signal(:STOP)
      code, = at_terminal("wait", "drained") do |terminal, keys, drawn|
        terminal.winsize = [24, 250]
        wait_until("the reason is drawn") { drawn.match?(/suspended .*, resume it with kill -CONT #{worker.pid}/) }
        worker.signal(:CONT)
        keys.write("\x03")
      end
      expect(code).to eq(130)
    end

    it "stops waiting at Ctrl-C, and says what stays in effect" do
      worker = start_ready
      occupy
      code, shown = at_terminal("quiet", "--wait") do |_, keys, drawn|
        wait_until("it waits") { drawn.include?("0 of 1 drained") }
        keys.write("\x03")
      end
      expect(code).to eq(130)
      expect(shown.lines.last).to match(/interrupted after .* stays quiet: /)
      wait_until("quiet") { state(worker) == ["quiet", false] }
    end

    it "shows the status on the alternate screen until Ctrl-C, in any size" do
      worker = start_ready(after: QUICK_HEARTBEAT)
      code, shown = at_terminal("status", "--watch") do |terminal, keys, drawn|
        wait_until("a table") { drawn.match?(/#{worker.pid} +running/) }
        terminal.winsize = [2, 20]
        wait_until("it is drawn narrower") { drawn.include?("…") }
        terminal.winsize = [24, 100]
        worker.signal(:TSTP)
        wait_until("it is drawn again") { drawn.match?(/#{worker.pid} +quiet/) }
        keys.write("\x03")
      end
      expect([code, shown]).to match([0, /\A\e\[\?1049h.*\e\[\?1049l\z/m])
    end
  end

  it "prints the status again whenever it changes, and only then" do
    worker = start_ready(after: QUICK_HEARTBEAT)
    lines = []
    Open3.popen2(Sandbox::COMMAND, "status", "--watch", "--json", chdir: app) do |_, out, watching|
      reader = Thread.new { out.each_line { |line| lines << JSON.parse(line) } }
      wait_until("a line") { lines.any? }
      beat = record(worker.pid)["beat_monotonic"]
      wait_until("beats") { record(worker.pid)["beat_monotonic"] > beat + 1 }
      worker.signal(:TSTP)
      wait_until("drained") { lines.last["drained"] }
      Process.kill(:INT, watching.pid)
      expect(watching.value.exitstatus).to eq(0)
      reader.join
    ensure
      Process.kill(:KILL, watching.pid) if watching.alive?
    end
    expect(lines.map { |line| line.dig("processes", 0, "record", "state") }.uniq).to eq(%w[running quiet])
    # A heartbeat alone is not a change.
    news = lines.map { |line| without_beat(line["processes"].first) }
    expect(news.each_cons(2).select { |before, after| before == after }).to be_empty
  end

  def without_beat(process)
    process.except("beat_age").merge("record" => process["record"].except("beat", "beat_monotonic"))
  end

  describe "the documentation" do
    include DocumentedJSON

    let(:docs) { File.expand_path("../../docs", __dir__) }

    it "lists every field of the JSON with its type" do
      worker = start_ready(install: "lifecycle.recover_jobs = true")
      report, one, kept, path, ending = json_tables.values_at("The report", "A process", "The record",
                                                              "The signal path", "The end of quiet, stop and wait")
      status = ask("status").last
      compare(status, report)
      compare(ask("status", "--pid", worker.pid).last["processes"][0], one, but: ["unreadable"])
      ended = ask("stop").last
      compare(ended, ending)
      [ended, ask("stop").last, ask("wait", "ready", "--timeout", "1s").last].each do |said|
        compare(said["processes"][0], one, but: %w[unreadable in_hand])
      end
      [status, ended].each { |said| compare(said["processes"][0]["record"], kept) }
      compare(status["processes"][0]["record"]["signal_path"], path)
      File.write(file("tmp/sidekiq/processes", "1"), "{")
      compare(ask("status").last["processes"].find { |process| process["unreadable"] }, one, but: %w[directory in_hand])
    end

    # Prepares for a command of docs/commands.md.
    def prepare(command, worker)
      case command
      when /status/
        push("Evaluate", %(note "begins"; sleep 0.02 until File.exist?("go")))
        wait_until("the job is recorded") { record(worker.pid)["busy"] == 1 }
      when /quiet --wait --timeout 1s/
        quiet_busy(worker)
      when /kill-after/
        FileUtils.rm(file("go"))
        @worker = start_ready(after: QUICK_HEARTBEAT, name: "next", timeout: 60)
        push("Evaluate", %(note "begins"; sleep))
        wait_until("the job is recorded") { record(@worker.pid)["busy"] == 1 }
      end
    end

    # Replaces what differs from one run to the next.
    def timeless(said)
      said = said.gsub(/\b#{@worker.pid}\b/, "4711").gsub(/ {2,}/, "  ")
      # What has passed, and not the limits of --timeout and --kill-after.
      said = said.gsub(/\b#{DURATION} ago\b/, "3 s ago")
                 .gsub(/^(ready|drained|stopped) after #{DURATION}\b/, '\1 after 3 s')
      # The tag is the name of the directory, which Sidekiq 7 does not report at once.
      said = said.gsub(/  #{Regexp.escape(Sidekiq::VERSION)}  \S+/, "  8.1.7  shop")
      said = said.gsub(/\bEvaluate \h{24} (.queue default, running for) #{DURATION}/,
                       "ReportJob 1a2b3c4d5e6f708192a3b4c5 \\1 3 s")
      # How often it prints its progress depends on the machine.
      said.lines.chunk_while { |*lines| lines.all?(/\A\d+ of \d+/) }.map(&:first).join
    end

    it "shows what the commands print" do
      @worker = start_ready(after: QUICK_HEARTBEAT)
      told = File.read(File.join(docs, "commands.md")).scan(/^```console\n(.*?)^```/m).join
      commands = told.split(/^(?=\$ )/).map { |block| block.split("\n", 2) }
      commands.each do |line, expected|
        prepare(line, @worker)
        words = line.delete_prefix("$ sidekiq-lifecycle ").gsub("4711", @worker.pid.to_s).split("; echo")
        going = begin_command(*words.first.split)
        release if line.include?("wait drained")
        code, said = going.value
        said += "#{code}\n" if words.size > 1
        expect("#{line}\n#{timeless(said)}").to eq("#{line}\n#{timeless(expected)}")
      end
    end
  end

  # With one heartbeat an hour, because the end of the drain must not wait for one.
  it "quiets and stops twenty processes, runs each job once, and does not wait for a heartbeat" do
    workers = Array.new(20) { |n| start(name: "worker#{n}", concurrency: 2, after: RARE_HEARTBEAT) }
    running = ->(worker) { record(worker.pid)&.fetch("state") == "running" || worker.raise_if_ended }
    workers.each { |worker| wait_until("ready") { running.call(worker) } }
    60.times { |n| push("Sleep", 3 + (n % 7), n) }
    wait_until("every thread has a job") { notes.grep(/begins/).size >= 40 }
    code, said = command("quiet", "--wait", "--timeout", "10m")
    expect([code, said.lines.last]).to match([0, /\Adrained after .* 20 processes/])
    begun, done = [/begins/, /ends/].map { |words| notes.grep(words).map(&:to_i) }
    expect(command("stop")).to match([0, /^stopped after .* 20 processes/])
    expect(workers.map(&:exit_code)).to all(eq(0))
    expect([done.uniq, done.sort]).to eq([done, begun.sort])
    expect([done.size + queued, retries, notes.size]).to eq([60, 0, done.size * 2])
  end
end
