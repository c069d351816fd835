# frozen_string_literal: true

# A job, or a library, can end the thread it runs on. Sidekiq does not notice.
RSpec.describe "threads that have died" do
  # A job that ends its thread, and nothing else.
  let(:dies) { 'note("jid " + jid); Thread.exit' }

  def start_quick(**options) = start_ready(after: QUICK_HEARTBEAT, timeout: 3, **options)

  def problems(worker) = problems_of(worker.pid)

  def wait_for_heartbeat(worker)
    before = record(worker.pid)["beat"]
    wait_until("a heartbeat") { record(worker.pid)["beat"] != before }
  end

  # Waits until a heartbeat has reported it.
  def wait_for_problem(worker, problem)
    wait_until("the problem #{problem}") { problems(worker).grep(problem).any? || worker.raise_if_ended }
  end

  describe "in the middle of a job" do
    let(:worker) { start_quick }
    let(:never) do
      "process #{worker.pid} is quiet, and can never drain: a thread of Sidekiq has died in the middle of " \
        "Evaluate #{jids.first}, which goes back to its queue when this process is stopped"
    end

    before do
      worker
      push("Evaluate", dies)
      wait_for_problem(worker,
                       /\A1 of 2 threads of Sidekiq has died, in the middle of Evaluate \h+: restart this process\z/)
    end

    it "are reported once, with the job, and the others keep working" do
      expect(problems(worker).first).to include(jids.first)
      expect(command("status").last).to include("#{worker.pid}: #{problems(worker).first}\n")
      push("Sleep", 0)
      wait_until("a job is done") { notes.include?("sleep ends") }
      expect([check, check("live")]).to eq([[0, "ready\n"], [0, "live\n"]])
      2.times { wait_for_heartbeat(worker) }
      expect(worker.log.scan("threads of Sidekiq has died").size).to eq(1)
    end

    it "end every wait for a drain that can never come" do
      expect(command("quiet", "--wait").first).to eq(1)
      wait_until("it is quiet") { record(worker.pid)["state"] == "quiet" }
      expect([command("wait", "drained"), check("drained")]).to eq([[1, "not drained: #{never}\n"]] * 2)
      expect(check("live")).to eq([0, "live\n"])
      expect(File).not_to exist(drained_file)
    end

    it "do not prevent a stop, which puts the job back" do
      code, said = command("stop", "--drain-first")
      line = /\Anot drained: .* can never drain: .*; stopped after .*back to Redis: Evaluate \h+ \(queue default\)\n\z/
      expect([code, said.lines.last]).to match([1, line])
      expect([worker.exit_code, queued]).to eq([0, 1])
      expect(record(worker.pid)).to include("drained" => false, "why" => "SIGTERM", "interrupted_jobs" => 1)
    end
  end

  it "in the middle of a job that a command waits for end the wait" do
    worker = start_quick
    push("Evaluate", "note 'begins'; sleep 0.01 until File.exist?('go'); #{dies}")
    wait_until("the job begins") { notes.include?("begins") }
    waiting = Thread.new { command("quiet", "--wait") }
    wait_until("it is quiet") { record(worker.pid)["state"] == "quiet" }
    expect(waiting).to be_alive
    release
    expect(waiting.value).to match([1, /^not drained: .* can never drain: .* in the middle of Evaluate #{jids.first},/])
  end

  it "all of them, leave the process live but not ready" do
    worker = start_quick
    2.times { push("Evaluate", dies) }
    wait_until("it is no longer ready") { !worker.ready_file? || worker.raise_if_ended }
    reason = "all 2 threads of Sidekiq have died"
    expect(check).to eq([1, "not ready: process #{worker.pid} is running, but #{reason}\n"])
    expect(check("live")).to eq([0, "live\n"])
    wait_for_problem(worker, /\A2 of 2 threads of Sidekiq have died, in the middle of Evaluate \h+, Evaluate \h+: /)
    expect(problems(worker).first).to include(*jids)
    worker.signal(:TERM)
    expect([worker.exit_code, queued]).to eq([0, 2])
  end

  describe "without a job" do
    let(:kill_the_others) do
      <<~RUBY
        processors = SidekiqLifecycle::SidekiqCompat.managers(Sidekiq::CLI.instance.launcher).flat_map { |one| one.workers.to_a }
        processors.each { |processor| processor.thread.kill unless processor.thread == Thread.current }
      RUBY
    end

    it "do not prevent a drain, whether they died before or after the process was quiet" do
      ["", "Process.kill(:TSTP, Process.pid); sleep 0.01 until SidekiqLifecycle.quiet?; "].each do |quiet|
        worker = start_quick(concurrency: 3)
        push("Evaluate", "note 'begins'; #{quiet}#{kill_the_others}; sleep 0.01 until File.exist?('go'); note 'ends'")
        wait_until("the job begins") { notes.include?("begins") }
        wait_for_problem(worker, /\A2 of 3 threads of Sidekiq have died: restart this process\z/) if quiet.empty?
        release
        expect(command("quiet", "--wait")).to match([0, /^drained after/])
        expect(notes).to include("ends")
        worker.signal(:TERM)
        expect(worker.exit_code).to eq(0)
        expect(record(worker.pid)).to include("drained" => true, "why" => "SIGTERM")
        [file("go"), file("notes")].each { |name| FileUtils.rm_f(name) }
      end
    end
  end

  describe "the scheduler's" do
    it "are reported, and let every job end" do
      worker = start_ready(after: QUICK_HEARTBEAT, timeout: 60)
      push("Evaluate", <<~RUBY)
        scheduler = Sidekiq::CLI.instance.launcher.poller.instance_variable_get(:@thread)
        scheduler.report_on_exception = false
        scheduler.raise(NotImplementedError, "no such call")
        note "begins"
        sleep 0.01 until File.exist?("go")
        note "ends"
      RUBY
      wait_for_problem(worker, /\ASidekiq's scheduler has died \(NotImplementedError: no such call\): /)
      expect(check).to eq([0, "ready\n"])
      worker.signal(:TERM)
      wait_until("it stops") { record(worker.pid)["state"] == "stopping" }
      release
      expect([worker.exit_code, notes]).to eq([0, %w[begins ends]])
      expect(record(worker.pid)).to include("drained" => true, "why" => "SIGTERM")
      expect(worker.log.scan("Sidekiq's scheduler has died").size).to eq(1)
    end
  end
end
