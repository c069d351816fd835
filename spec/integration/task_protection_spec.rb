# frozen_string_literal: true

RSpec.describe "protection from scale-in on ECS" do
  let(:ecs) { EcsAgent.new }

  after { ecs.stop }

  # Ruby for an application: other times for the protection, so that an example need not wait for minutes, or can tell
  # the times apart.
  def times(**seconds)
    <<~RUBY
      require "sidekiq_lifecycle/task_protection/agent"
      #{seconds.inspect}.each do |name, seconds|
        owner = SidekiqLifecycle::TaskProtection
        owner = owner::Agent unless owner.const_defined?(name, false)
        owner.send(:remove_const, name)
        owner.const_set(name, seconds)
      end
    RUBY
  end

  # A slow machine is no agent that hangs.
  PATIENT = { ANSWER: 60, TOTAL: 60, EXIT_DELAY: 60 }.freeze # rubocop:disable Lint/ConstantDefinitionInBlock

  def protecting(environment: ecs.environment, after: "", **options)
    start_ready(install: "lifecycle.ecs_task_protection = true", environment:,
                after: QUICK_HEARTBEAT + times(LINGER: 3600, **PATIENT) + after, **options)
  end

  # Pushes a job that runs until {#let_end}.
  def push_long(name = "long") = push("Evaluate", <<~RUBY)
    note "#{name} begins"
    sleep 0.01 until File.exist?("#{name} may end")
    note "#{name} ends"
  RUBY

  def let_end(name = "long")
    File.write(file("#{name} may end"), "")
    wait_until("#{name} ends") { notes.include?("#{name} ends") }
  end

  def begin_long(name = "long")
    push_long(name)
    wait_until("#{name} begins") { notes.include?("#{name} begins") }
    wait_until("protected") { ecs.protected? }
  end

  # Runs code in a job, and returns its inspected value.
  def ask(code)
    answer = "answer #{SecureRandom.hex(4)}: "
    push("Evaluate", "note #{answer.inspect} + (#{code}).inspect")
    wait_until("an answer to #{code}") { notes.find { |note| note.start_with?(answer) } }.delete_prefix(answer)
  end

  it "lasts while a job runs, starts not before that, and ends soon afterwards" do
    worker = protecting(after: times(LINGER: 0.5))
    beat = record(worker.pid)["beat_monotonic"]
    wait_until("a few heartbeats") { record(worker.pid)["beat_monotonic"] > beat + 0.5 }
    expect(ecs.requests).to be_empty
    expect(record(worker.pid)["ecs_task_protected"]).to be(false)
    begin_long
    expect(ecs.requests).to eq([{ "ProtectionEnabled" => true, "ExpiresInMinutes" => 20 }])
    wait_until("it is recorded") { record(worker.pid)["ecs_task_protected"] }
    let_end
    wait_until("released") { !ecs.protected? }
    wait_until("that is recorded") { record(worker.pid)["ecs_task_protected"] == false }
    expect(ecs.asked).to eq([true, false])

    begin_long("next")
    expect(ecs.asked).to eq([true, false, true])
  end

  it "is renewed while a job runs" do
    protecting(after: times(RENEW: 0.1))
    begin_long
    wait_until("renewed") { ecs.requests.size >= 4 }
    expect(ecs.requests.uniq).to eq([{ "ProtectionEnabled" => true, "ExpiresInMinutes" => 20 }])
  end

  it "does not come and go with each of many short jobs" do
    worker = protecting
    60.times do |number|
      push("Evaluate", "note #{number}")
      wait_until("job #{number}") { notes.last == number.to_s }
      sleep 0.02
    end
    expect(ecs.asked).to eq([true])
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(ecs.asked).to eq([true, false])
  end

  it "stays while a worker drains, and ends when it has drained, before the process ends" do
    worker = protecting
    begin_long
    worker.signal(:TSTP)
    wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
    expect(ecs).to be_protected
    let_end
    wait_until("drained") { File.exist?(drained_file) }
    wait_until("released") { !ecs.protected? }
    expect(worker).to be_running
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(ecs.asked).to eq([true, false])
  end

  it "ends with an idle worker" do
    worker = protecting
    begin_long
    let_end
    expect(ecs).to be_protected
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(ecs.asked).to eq([true, false])
  end

  it "ends with a worker whose job is interrupted" do
    worker = protecting(timeout: 1)
    begin_long
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(record(worker.pid)).to include("interrupted_jobs" => 1)
    expect(ecs.asked).to eq([true, false])
  end

  it "is not requested by a worker without the setting" do
    start_ready(environment: ecs.environment)
    expect(ask("Thread.list.map(&:name).grep(/ecs/)")).to eq("[]")
    expect(ask("Sidekiq::Processor.ancestors.include?(SidekiqLifecycle::TaskProtection::Processor)")).to eq("false")
    expect(ecs.requests).to be_empty
  end

  it "is not ended by a child of a job" do
    worker = protecting
    begin_long
    push("Evaluate", "2.times { Process.wait(fork { exit }) }; Process.wait(fork { exit! }); note 'waited'")
    wait_until("the children have ended") { notes.include?("waited") }
    worker.signal(:TSTP)
    let_end
    wait_until("released") { !ecs.protected? }
    expect(ecs.asked).to eq([true, false])
  end

  it "ends with the last of several workers of a task, not with the first" do
    first = protecting(name: "first", concurrency: 1)
    begin_long
    second = start(name: "second", install: "lifecycle.ecs_task_protection = true", environment: ecs.environment,
                   after: times(LINGER: 3600), concurrency: 1)
    wait_until("the second is ready") { record(second.pid)&.fetch("state") == "running" || second.raise_if_ended }
    begin_long("other")
    wait_until("both have asked") { ecs.asked == [true, true] }

    first.signal(:TERM)
    let_end
    expect(first.exit_code).to eq(0)
    expect(ecs).to be_protected
    second.signal(:TERM)
    let_end("other")
    expect(second.exit_code).to eq(0)
    expect(ecs.asked).to eq([true, true, false])
  end

  if Sandbox::MAJOR > 6
    it "ends with an embedded Sidekiq, while the host program continues" do
      File.write(file("host.rb"), <<~RUBY)
        require "sidekiq"
        require "sidekiq_lifecycle"
        #{times(LINGER: 3600)}
        #{Worker::JOBS}
        instance = Sidekiq.configure_embed do |config|
          config.redis = { url: #{redis.url(@database).inspect} }
          SidekiqLifecycle.install(config) { |lifecycle| lifecycle.ecs_task_protection = true }
        end
        instance.run
        sleep 0.01 until File.exist?("stop")
        instance.stop
        note "stopped"
        sleep 0.01 until File.exist?("exit")
      RUBY
      host = start_program(RbConfig.ruby, "./host.rb", environment: ecs.environment)
      begin_long
      let_end
      expect(ecs).to be_protected
      FileUtils.touch(file("stop"))
      wait_until("stopped") { notes.include?("stopped") || host.raise_if_ended }
      wait_until("released") { !ecs.protected? }
      expect(host).to be_running
      FileUtils.touch(file("exit"))
      expect(host.exit_code).to eq(0)
      expect(ecs.asked).to eq([true, false])
    end
  end

  { no_role: "the agent answered 403, AccessDeniedException", standalone: "the agent answered 200, TASK_NOT_VALID",
    unknown: "the agent answered 404, ResourceNotFoundException" }.each do |behaviour, said|
    it "that is refused (#{behaviour}) is reported once, and nothing else changes" do
      ecs.behaviour = behaviour
      worker = protecting(after: times(RETRY_RARELY: 0.05))
      push_long
      line = "this ECS task could not be protected from scale-in: #{said}"
      wait_until("it is reported") { worker.log.include?(line) }
      wait_until("it is requested again") { ecs.asked.size >= 3 }
      expect(ask("SidekiqLifecycle.status.problems")).to start_with("[\"#{line}")
      let_end
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(worker.log.scan(line).size).to eq(1)
      expect(ecs.asked).to all(be(true))
    end
  end

  it "that succeeds later is no longer a problem" do
    ecs.behaviour = :throttled
    worker = protecting(after: times(RETRY: 0.05))
    push_long
    wait_until("it is reported") { worker.log.include?("ThrottlingException: Rate exceeded") }
    ecs.behaviour = nil
    wait_until("protected") { ecs.protected? }
    wait_until("no problem any more") { ask("SidekiqLifecycle.status.problems") == "[]" }
  end

  { "never answers" => ->(ecs) { ecs.behaviour = :hang }, "is not there" => :stop.to_proc }.each do |what, make|
    it "delays neither jobs nor the shutdown if the agent #{what}" do
      make.call(ecs)
      # Anything that waited for the agent would wait until the example fails.
      worker = protecting(after: times(ANSWER: 3600, TOTAL: 3600, EXIT_DELAY: 2))
      push_long
      30.times { |number| push("Evaluate", "note #{number}") }
      wait_until("the jobs are done") { (0...30).map(&:to_s) - notes == [] }
      let_end
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(record(worker.pid)["timings"]).to include("drained", "stopped")
    end
  end

  [nil, "", "none"].each do |uri|
    it "is reported as impossible if $ECS_AGENT_URI is #{uri.inspect}" do
      worker = protecting(environment: { "ECS_AGENT_URI" => uri })
      line = "ecs_task_protection is set, but $ECS_AGENT_URI is #{uri.inspect}, which is not the address " \
             "of an ECS agent; jobs are not protected from scale-in"
      expect(ask("SidekiqLifecycle.status.problems")).to eq([line].inspect)
      wait_until("it is reported") { worker.log.include?(line) }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(worker.log.scan(line).size).to eq(1)
    end
  end
end
