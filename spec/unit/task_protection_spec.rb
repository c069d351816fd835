# frozen_string_literal: true

require "sidekiq_lifecycle/task_protection/agent"
require "sidekiq_lifecycle/task_protection/claim"
require "tmpdir"

RSpec.describe SidekiqLifecycle::TaskProtection do
  let(:ecs) { EcsAgent.new }
  let(:agent) { described_class::Agent.at(ecs.uri) }

  describe "the setting" do
    let(:configuration) { SidekiqLifecycle::Configuration.new }

    it "is off unless it is switched on" do
      expect(configuration.ecs_task_protection).to be(false)
      [true, false].each do |wanted|
        configuration.ecs_task_protection = wanted
        expect(configuration.ecs_task_protection).to be(wanted)
      end
    end

    [nil, "true", :on, 1].each do |wrong|
      it "refuses #{wrong.inspect}" do
        expect { configuration.ecs_task_protection = wrong }
          .to raise_error(ArgumentError, "ecs_task_protection is #{wrong.inspect}; set it to true or false")
      end
    end
  end

  describe "the agent" do
    it "is asked for what its protocol knows, and no more" do
      expect([agent.protect(20), ecs.protected?]).to eq([nil, true])
      expect([agent.release, ecs.protected?]).to eq([nil, false])
      expect(ecs.requests).to eq([{ "ProtectionEnabled" => true, "ExpiresInMinutes" => 20 },
                                  { "ProtectionEnabled" => false }])
    end

    it "is where $ECS_AGENT_URI says, with or without a slash at the end, and not behind a proxy" do
      before = ENV.to_h
      ENV["http_proxy"] = "http://127.0.0.1:9"
      expect(described_class::Agent.at("#{ecs.uri}/").protect(1)).to be_nil
    ensure
      ENV.replace(before)
    end

    ["", "169.254.170.2", "http:", "ftp://127.0.0.1", "http://a b"].each do |uri|
      it "is not at #{uri.inspect}" do
        expect(described_class::Agent.at(uri)).to be_nil
      end
    end

    role = "allow ecs:UpdateTaskProtection and ecs:GetTaskProtection in the task role " \
           "(taskRoleArn, not the execution role)"
    {
      no_role: [true, "the agent answered 403, AccessDeniedException: Invalid Request: no task IAM role credentials " \
                      "available for task; #{role}"],
      denied: [true, "the agent answered 400, AccessDeniedException: not authorized: " \
                     "ecs:UpdateTaskProtection; #{role}"],
      unknown: [true, "the agent answered 404, ResourceNotFoundException: Failed to find a task for the request"],
      standalone: [true, "the agent answered 200, TASK_NOT_VALID; only tasks of a service can be protected; " \
                         "set ecs_task_protection to false in a standalone task"],
      throttled: [false, "the agent answered 400, ThrottlingException: Rate exceeded"],
      crowded: [false, "the agent answered 429"],
      broken: [false, "the agent answered 500, ServerException: Unexpected error occurred"],
      timed_out: [false, "the agent answered 504, RequestCanceled: Timed out calling Amazon ECS Task Protection API"],
      blocked: [false, "the agent answered 200, DEPLOYMENT_BLOCKED; the service has more protected tasks than its " \
                       "desired count; wait for some to end, or raise the count"],
      garbled: [false, "the agent answered 200"]
    }.each do |behaviour, (permanent, text)|
      it "that answers as it does when #{behaviour} fails #{permanent ? "permanently" : "temporarily"}" do
        ecs.behaviour = behaviour
        expect(agent.protect(20).to_a).to eq([text, permanent])
        expect(ecs.requests.size).to eq(1)
      end
    end

    it "refuses what is no such request, as the real one does" do
      {
        { ProtectionEnabled: true, Minutes: 5 } => "failed to decode request",
        { ExpiresInMinutes: 5 } => "does not contain 'ProtectionEnabled' field",
        { ProtectionEnabled: true, ExpiresInMinutes: 2881 } => "expiresInMinutes"
      }.each do |request, what|
        expect(agent.send(:put, request).to_a)
          .to eq(["the agent answered 400, InvalidParameterException: Invalid request: #{what}", true])
      end
    end

    it "that is not there may come back" do
      ecs.stop
      expect(agent.protect(20)).to have_attributes(message: match(/Errno::ECONNREFUSED/), permanent: false)
    end

    %i[hang trickle].each do |behaviour|
      it "is not waited for for ever (#{behaviour})" do
        stub_const("#{described_class}::Agent::ANSWER", 0.2)
        stub_const("#{described_class}::Agent::TOTAL", 0.5)
        ecs.behaviour = behaviour
        expect(agent.release).to have_attributes(message: match(/Timeout/), permanent: false)
      end
    end
  end

  describe "a claim" do
    let(:directory) { Dir.mktmpdir }
    let(:claims) { Array.new(3) { described_class::Claim.new(directory) } }

    def left(claim) = claim.leave { :alone } || :not_alone

    it "is shared, and the last to leave is alone" do
      claims.each(&:take)
      expect(claims.map { |claim| left(claim) }).to eq(%i[not_alone not_alone alone])
      expect(left(claims.first)).to eq(:alone)
    end

    it "is not got while one that is alone ends the protection" do
      claims.first.take
      order = Queue.new
      claims.first.leave do
        taking = Thread.new do
          claims[1].take
          order << :taken
        end
        wait_until("it waits") { taking.stop? }
        order << :ended
      end
      expect([order.pop, order.pop]).to eq(%i[ended taken])
    end

    it "waits only so long for one that is alone for ever" do
      stub_const("#{described_class}::Claim::PATIENCE", 0.2)
      File.open(directory) do |file|
        file.flock(File::LOCK_EX)
        claims.first.take
        expect(left(claims.first)).to eq(:not_alone)
      end
      claims.first.take
      expect(left(claims.first)).to eq(:alone)
    end

    it "is not kept by a child that outlives its parent's claim" do
      claims.first.take
      child = fork { sleep }
      expect(left(claims.first)).to eq(:alone)
      claims[1].take
      expect(left(claims[1])).to eq(:alone)
    ensure
      Process.kill(:KILL, child)
      Process.wait(child)
    end

    it "cannot be known to be the only one without a directory" do
      Dir.rmdir(directory)
      claims.first.take
      expect(left(claims.first)).to eq(:not_alone)
    end
  end

  describe "over time" do
    let(:directory) { Dir.mktmpdir }
    let(:told) { Queue.new }
    let(:protection) { join(directory) }

    before do
      # Quick enough for a test, and each still far from the next.
      { LINGER: 0.4, RENEW: 3600, RETRY: 0.02, RETRY_RARELY: 0.1 }.each do |name, seconds|
        stub_const("#{described_class}::#{name}", seconds)
      end
      @busy = 0
      @joined = []
    end

    after { @joined.each(&:finish) }

    def join(directory, busy = -> { @busy })
      claim = described_class::Claim.new(directory)
      described_class.new(agent, claim, busy) { |problem| told << problem }.tap { |one| @joined << one }
    end

    def thread(one = protection) = one.instance_variable_get(:@thread)

    def sleeps_without_a_timer? = thread.inspect.include?("sleep_forever")

    it "sleeps until a job begins, and asks at once" do
      wait_until("it sleeps") { sleeps_without_a_timer? }
      expect(ecs.requests).to be_empty
      protection.record_job
      wait_until("protected") { ecs.protected? }
      wait_until("released, and it sleeps again") { !ecs.protected? && sleeps_without_a_timer? }
    end

    it "asks once for many jobs, and once more when there were none for a while" do
      stub_const("#{described_class}::LINGER", 2)
      200.times do
        protection.record_job
        sleep 0.005
      end
      wait_until("released") { ecs.asked.last == false }
      expect(ecs.asked).to eq([true, false])
    end

    it "stays for a job that goes on" do
      @busy = 1
      protection.record_job
      wait_until("protected") { ecs.protected? }
      expect { wait_until("released", limit: 1.5) { !ecs.protected? } }.to raise_error(/in vain/)
      @busy = 0
      wait_until("released") { !ecs.protected? }
    end

    it "asks again while a job runs" do
      stub_const("#{described_class}::RENEW", 0.05)
      @busy = 1
      protection.record_job
      wait_until("renewed") { ecs.asked == [true] * 4 }
    end

    it "gives back at once what it holds, when there will be no more jobs, and ends" do
      stub_const("#{described_class}::LINGER", 3600)
      protection.record_job
      wait_until("protected") { ecs.protected? }
      protection.release
      wait_until("ended") { !thread.alive? }
      # On a busy machine an answer may come too late, and it asks again.
      expect(ecs.asked.chunk_while { |one, next_one| one == next_one }.map(&:first)).to eq([true, false])
    end

    it "gives back nothing that it never had" do
      protection.finish
      expect(thread).not_to be_alive
      expect(ecs.requests).to be_empty
    end

    it "tries again what failed for a moment, and tells nobody" do
      ecs.behaviour = :throttled
      @busy = 1
      protection.record_job
      wait_until("asked") { ecs.asked.any? }
      ecs.behaviour = nil
      wait_until("protected") { ecs.protected? }
    end

    it "tells what goes on failing, once it does, and when it is over" do
      ecs.behaviour = :timed_out
      @busy = 1
      protection.record_job
      expect(told.pop).to start_with("this ECS task could not be protected from scale-in: the agent answered 504")
      expect(ecs.asked.size).to be >= described_class::REPORTED_AFTER
      ecs.behaviour = nil
      Thread.pass until told.pop.nil?
      expect(ecs).to be_protected
    end

    it "tells a refusal at once, and asks rarely from then on, also for the next job" do
      stub_const("#{described_class}::RETRY_RARELY", 3600)
      ecs.behaviour = :no_role
      protection.record_job
      expect(told.pop).to include("AccessDeniedException")
      wait_until("it sleeps again") { sleeps_without_a_timer? }
      protection.record_job
      wait_until("it looks") { protection.instance_variable_get(:@wanted) }
      protection.finish
      expect(ecs.asked).to eq([true])
    end

    it "has no claim to what it was refused" do
      stub_const("#{described_class}::RETRY_RARELY", 3600)
      ecs.behaviour = :no_role
      @busy = 1
      protection.record_job
      told.pop
      expect(described_class::Claim.new(directory).leave { :alone }).to eq(:alone)
    end

    it "goes on trying to give back, and says that it runs out by itself" do
      @busy = 1
      protection.record_job
      wait_until("protected") { ecs.protected? }
      ecs.behaviour = :broken
      protection.release
      expect(told.pop).to start_with("the scale-in protection of this ECS task could not be released, and expires " \
                                     "within 20 min: the agent answered 500")
      ecs.behaviour = nil
      wait_until("released") { !ecs.protected? }
      wait_until("ended") { !thread.alive? }
    end

    it "stops trying when it has run out" do
      protection.record_job
      wait_until("protected") { ecs.protected? }
      ecs.behaviour = :timed_out
      protection.instance_variable_set(:@expires_at, 0)
      protection.release
      wait_until("ended") { !thread.alive? }
      # On a busy machine an answer may come too late, and it asks again.
      expect(ecs.asked.chunk_while { |one, next_one| one == next_one }.map(&:first)).to eq([true, false])
    end

    it "ends with the last of several that share a directory" do
      jobs = [1, 1]
      both = Array.new(2) { |index| join(directory, -> { jobs[index] }) }
      both.each(&:record_job)
      wait_until("both have asked") { ecs.asked == [true, true] }
      jobs[0] = 0
      wait_until("the first has no job any more") { both[0].instance_variable_get(:@wanted) == false }
      both[0].finish
      expect(ecs).to be_protected
      both[1].finish
      expect(ecs.asked).to eq([true, true, false])
    end

    it "is not noticed by a job, however the agent is, nor by the end for long" do
      ecs.behaviour = :hang
      stub_const("#{described_class}::EXIT_DELAY", 0.1)
      protection.record_job
      wait_until("it hangs") { ecs.asked.any? }
      protection.record_job
      expect(protection.finish).to be_nil
      expect(thread).to be_alive
    ensure
      thread.kill
    end
  end
end
