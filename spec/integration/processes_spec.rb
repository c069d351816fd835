# frozen_string_literal: true

RSpec.describe "processes that share a directory" do
  # What may be done to a process in each state (nil: there is none).
  let(:steps) { { nil => %i[start], running: %i[TSTP TERM KILL], drained: %i[TERM KILL] } }

  # The states that it passes through; the last one is where it ends.
  let(:passes) do
    { start: %i[booting running], TSTP: %i[quiet drained], TERM: [:stopping, :drained, nil], KILL: [nil] }
  end

  # The rule: a file exists, and `check` says yes, while at least one process lives and all living ones are in that
  # state.
  def truth(states)
    { ready: :running, drained: :drained }.transform_values { |state| states.compact.uniq == [state] }
  end

  def files = { ready: File.exist?(ready_file), drained: File.exist?(drained_file) }

  def answers = { ready: check("ready").first.zero?, drained: check("drained").first.zero? }

  def act(slot, step)
    return @slots[slot].signal(step) unless step == :start

    @slots[slot] = start(after: QUICK_HEARTBEAT, concurrency: 1, name: "slot#{slot}")
  end

  def reached?(worker, state)
    case state
    when nil then !worker.running?
    when :running then record(worker.pid)&.fetch("state") == "running" || worker.raise_if_ended
    when :drained then record(worker.pid)["drained"]
    end
  end

  # Does one thing to each of these slots, all at once, and compares the result with the rule.
  def play(doings, states)
    before = files
    watcher = Watcher.new { files }
    doings.each { |slot, step| act(slot, step) }
    after = states.dup
    doings.each { |slot, step| after[slot] = passes[step].last }
    doings.each_key do |slot|
      wait_until("slot #{slot} is #{after[slot].inspect}") { reached?(@slots[slot], after[slot]) }
    end
    # At once, although no process may have sent a heartbeat since.
    expect(answers).to eq(truth(after))
    # A killed process corrects no file. A survivor does so at its next heartbeat; without one the files stay.
    unless after.none? && doings.value?(:KILL)
      wait_until("of #{after}, #{files} becomes #{truth(after)}") { files == truth(after) }
    end
    seen = [*watcher.changes, files]
    compare(seen, [before, *path(doings, states)]) if doings.one?
    after
  end

  # If only one thing was done, it is known which states the files pass through.
  def path(doings, states)
    (slot, step), = doings.to_a
    return [] if step == :KILL && states.compact.one?

    passes[step].map { |state| truth(states.dup.tap { |now| now[slot] = state }) }
  end

  # A file must never have been wrong, not even for a moment. It may have been right too briefly to be seen.
  def compare(seen, path)
    %i[ready drained].each do |name|
      seen_of_it, path_of_it = [seen, path].map { |list| changes(list.map { |now| now[name] }) }
      rest = path_of_it.dup
      in_order = seen_of_it.all? { |now| rest.include?(now) && rest.shift(rest.index(now) + 1) }
      expect(in_order && seen_of_it.last == path_of_it.last)
        .to be(true), "#{name} was seen #{seen_of_it}, it goes through #{path_of_it}"
    end
  end

  def changes(list) = list.slice_when { |one, next_one| one != next_one }.map(&:first)

  # Repeat a failure with the seed that RSpec prints: bin/spec spec/integration/processes_spec.rb --seed 4711
  [2, 4].each do |size|
    it "are reported correctly, #{size} of them, started, quieted, stopped and killed in any order" do
      random = Random.new(RSpec.configuration.seed + size)
      @slots = []
      states = [nil] * size
      Integer(ENV.fetch("ROUNDS", 25)).times do |round|
        # Mostly one at a time, because then every state of the files is known; sometimes many at once.
        slots = (0...size).to_a.sample(random.rand(4).zero? ? random.rand(2..size) : 1, random: random)
        doings = slots.to_h { |slot| [slot, steps[states[slot]].sample(random: random)] }
        states = play(doings, states)
      rescue StandardError, RSpec::Expectations::ExpectationNotMetError
        warn "in round #{round}: of #{states}, #{doings}"
        raise
      end
    end
  end

  # Writes a record of this pid as a Sidekiq would have left it.
  def plant(like, pid, **changes)
    path = file("tmp/sidekiq/processes", pid.to_s)
    File.write(path, JSON.generate(record(like.pid).merge("pid" => pid, **changes.transform_keys(&:to_s))))
    path
  end

  it "are not confused by a record whose pid another process has now" do
    worker = start_ready(after: QUICK_HEARTBEAT)
    recycled = spawn("sleep", "3600", in: File::NULL)
    planted = plant(worker, recycled, state: "quiet", start_time: 1)
    beat = record(worker.pid)["beat_monotonic"]
    wait_until("a beat or two") { record(worker.pid)["beat_monotonic"] > beat + 0.3 }
    expect([worker.ready_file?, check]).to eq([true, [0, "ready\n"]])

    plant(worker, recycled, state: "running", start_time: 1)
    worker.signal(:TSTP)
    wait_until("quiet") { !worker.ready_file? && record(worker.pid)["drained"] }
    expect(check).to eq([1, "not ready: process #{worker.pid} is quiet\n"])
    expect(check("drained").first).to eq(0)
    start_ready_beside(planted)
  ensure
    Process.kill(:KILL, recycled)
    Process.wait(recycled)
  end

  # The next Sidekiq that boots clears it.
  def start_ready_beside(planted)
    start(name: "next").tap { |worker| wait_until("registered") { record(worker.pid) || worker.raise_if_ended } }
    expect(File).not_to exist(planted)
  end

  describe "across containers" do
    let(:container) { %w[unshare --pid --mount-proc --fork --kill-child] }

    # The problem that both sides log.
    def shared_line(pid)
      "process #{pid} of another container or machine also uses #{file("tmp/sidekiq")}; " \
        "give each its own directory"
    end

    it "answer only for themselves, and log that they share the directory" do
      outside = start_ready(after: QUICK_HEARTBEAT, name: "outside")
      inside = start(after: QUICK_HEARTBEAT, name: "inside", launcher: container)
      wait_until("the one inside logs it") { inside.log.include?(shared_line(outside.pid)) || inside.raise_if_ended }
      wait_until("the one outside logs it") { outside.log.include?(shared_line(1)) }
      expect(check).to eq([0, "ready\n"])

      outside.signal(:TSTP)
      wait_until("quiet") { record(outside.pid)["state"] == "quiet" }
      expect(check).to eq([1, "not ready: process #{outside.pid} is quiet\n"])
      # The one that still takes jobs runs the check inside.
      push("Evaluate", "note %x(#{Sandbox::COMMAND} check)")
      wait_until("the answer from inside") { notes.include?("ready") }
      push("Evaluate", "note SidekiqLifecycle.ready?")
      wait_until("the answer from inside") { notes.include?("true") }

      inside.kill
      expect(check).to eq([1, "not ready: process #{outside.pid} is quiet\n"])
      outside.signal(:TERM)
      expect(outside.exit_code).to eq(0)
      expect(check.first).to eq(1)
    end

    # A directory on NFS or EFS. Machines differ in the kernel's boot id.
    it "log that also if the other one is on another machine" do
      File.write(file("boot_id"), "00000000-0000-4000-8000-000000000000\n")
      script = 'mount --bind boot_id /proc/sys/kernel/random/boot_id && exec "$@"'
      both = { "here" => [], "there" => ["unshare", "--mount", "dash", "-c", script, "dash"] }
      both = both.map { |name, launcher| start(after: QUICK_HEARTBEAT, name:, launcher:) }
      both.zip(both.reverse).each do |worker, other|
        wait_until("it is logged") { worker.log.include?(shared_line(other.pid)) || worker.raise_if_ended }
      end
    end

    # The pid here of a worker that is PID 1 in its container.
    def first(worker) = File.read("/proc/#{worker.pid}/task/#{worker.pid}/children").to_i

    def signal_inside(worker, name) = Process.kill(name, first(worker))

    # The command inside a worker's container.
    def inside(worker, *arguments)
      enter = ["nsenter", "--target", first(worker).to_s, "--pid", "--mount", "--root", "--", Sandbox::COMMAND]
      output, status = Open3.capture2e(*enter, *arguments, "--dir", file("tmp/sidekiq"))
      [status.exitstatus, output]
    end

    it "log that even if both have the same pid" do
      both = %w[one two].map { |name| start(after: QUICK_HEARTBEAT, name: name, launcher: container) }
      both.each { |worker| wait_until("it is logged") { worker.log.include?(shared_line(1)) || worker.raise_if_ended } }
      push("Evaluate", "note SidekiqLifecycle.ready?")
      wait_until("they work") { notes == ["true"] }
    end

    it "always answer for themselves even if both have the same pid" do
      stays = start(after: QUICK_HEARTBEAT, name: "stays", launcher: container)
      wait_until("ready") { inside(stays, "check").first.zero? || stays.raise_if_ended }
      watcher = Watcher.new { %w[live ready].map { |probe| inside(stays, "check", probe) } }
      2.times do |round|
        goes = start(after: QUICK_HEARTBEAT, name: "goes#{round}", launcher: container)
        wait_until("the other is ready") { inside(goes, "check") == [0, "ready\n"] || goes.raise_if_ended }
        wait_until("the file is there") { File.exist?(ready_file) }
        signal_inside(goes, :TSTP)
        wait_until("it is quiet") { inside(goes, "check").last.end_with?("is quiet\n") }
        expect(File).not_to exist(ready_file)
        expect(inside(stays, "doctor").last).to match(/^  directory .*; neither ready nor drained exists, which is/)
        wait_until("the other has drained") { inside(goes, "check", "drained").first.zero? }
        round.zero? ? signal_inside(goes, :TERM) : goes.kill
        wait_until("the other has ended") { !goes.running? }
      end
      expect(watcher.changes.uniq).to eq([[[0, "live\n"], [0, "ready\n"]]])
      signal_inside(stays, :TERM)
      expect(stays.exit_code).to eq(0)
    end
  end
end
