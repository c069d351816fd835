# frozen_string_literal: true

require "sidekiq_lifecycle/fleet/cli/table"

RSpec.describe SidekiqLifecycle::Fleet do
  # What a process publishes; `published` is what this gem adds.
  def member(identity = "worker-1:7:abc", listed: true, info: {}, busy: 0, beat: 100.0, quiet: false, published: nil)
    info = { "hostname" => identity.split(":").first, "pid" => 7, "queues" => ["default"] }.merge(info)
    fields = { "info" => JSON.generate(info), "busy" => busy.to_s, "beat" => beat.to_s, "quiet" => quiet.to_s }
    published = JSON.generate(said(**published)) if published.is_a?(Hash)
    SidekiqLifecycle::Fleet::Process.new(identity, listed:, fields:, beat_age: 1.0, published:)
  end

  def said(state: "running", ready: false, drained: false, **more)
    { "state" => state, "ready" => ready, "drained" => drained, "interrupted" => 0, "version" => "0.1.0" }
      .merge(more.transform_keys(&:to_s))
  end

  # One that Sidekiq lists and of which Redis has forgotten all else.
  def ghost(identity = "worker-1:7:abc") = SidekiqLifecycle::Fleet::Process.new(identity, listed: true)

  # One that has left: Sidekiq's own fields stay for up to a minute.
  def gone(identity = "worker-1:7:abc", **more) = member(identity, listed: false, **more)

  describe SidekiqLifecycle::Fleet::Process do
    it "has the state that it published, or that Sidekiq's fields show" do
      { member => :running, member(quiet: true) => :quiet, ghost => :ghost, gone => :stopped,
        member(quiet: true, published: { state: "stopping" }) => :stopping,
        member(published: { state: "quiet" }) => :quiet }.each do |one, state|
        expect(one.state).to eq(state)
      end
    end

    it "has stopped if it says that it has left, even if a heartbeat on its way has put it back on Sidekiq's list" do
      left = member(published: { state: "stopping", left: true })
      expect([left.state, left.listed?, left.ghost?, left.gone?]).to eq([:stopped, false, false, true])
      expect(member(published: { state: "stopping", left: false }).state).to eq(:stopping)
    end

    it "is ready if it says so, or else fetches" do
      expect(member).to be_ready
      expect(member(quiet: true)).not_to be_ready
      expect(member(published: { ready: true })).to be_ready
      expect(member(published: { ready: false })).not_to be_ready
      expect([ghost, gone].map(&:ready?)).to eq([false, false])
    end

    it "tells whether it has drained only if it has the gem" do
      expect(member(quiet: true).drained?).to be_nil
      expect(member(quiet: true, published: { state: "quiet", drained: true }).drained?).to be(true)
    end

    it "is named by its identity where nothing else is left, also with colons in the hostname" do
      expect(ghost("fe80::1:42:abcdef").name).to eq("fe80::1:42")
      expect(ghost("odd").name).to eq("odd")
    end

    it "cannot be changed, nor anything in it" do
      drained = member(published: { drained_at: Time.now.iso8601 })
      all = [drained, member(info: { "labels" => ["a"] }), ghost, ghost("odd")]
      expect(all).to all(satisfy { |one| Ractor.shareable?(one) })
    end

    it "passes over what is no JSON" do
      fields = { "info" => "{", "busy" => "1", "beat" => "1.5" }
      odd = described_class.new("worker:7:abc", listed: true, fields:, published: "[]")
      expect([odd.name, odd.busy, odd.state, odd.published]).to eq(["worker:7", 1, :running, nil])
    end

    it "goes by Sidekiq's own fields where the gem's are in another form" do
      [{ state: nil }, { state: "napping" }, { ready: "yes" }, { drained: nil }, { drained_at: 12 },
       { drained_at: "noon" }, { interrupted: "2" }, { lost: "1" }, { never_drains: 7 },
       { signal_path: [] }].each do |wrong|
        one = member(quiet: true, published: { ready: true, **wrong })
        expect(one.to_h).to include(state: :quiet, ready: false, drained: nil, lifecycle: nil), wrong.inspect
      end
    end

    it "passes over fields that no Sidekiq writes" do
      info = { hostname: 1, pid: {}, tag: [], queues: "default", labels: { a: 1 }, version: 8, concurrency: "x" }
      odd = member(info: info.transform_keys(&:to_s))
      expect(odd.to_h).to include(hostname: "worker-1", pid: 7, tag: nil, queues: [], labels: [], version: nil)
      expect([odd.concurrency, odd.up_for]).to eq([nil, nil])
    end

    it "can be shown whatever bytes its identity has" do
      ["bad\xff:1:x", "bad\xff:1:x".b].each do |identity|
        odd = ghost(identity)
        expect([odd.identity, odd.name]).to eq([identity, "bad\uFFFD:1"])
        expect(JSON.parse(JSON.generate(odd.to_h))).to include("identity" => "bad\uFFFD:1:x", "hostname" => "bad\uFFFD")
      end
    end

    it "is frozen" do
      expect(member(published: {})).to be_frozen
    end
  end

  describe SidekiqLifecycle::Fleet::Selection do
    def chosen(matching: nil, except: nil)
      selection = described_class.new(matching:, except:)
      members.select { |one| selection.include?(one) }.map(&:hostname)
    end

    let(:members) do
      [member("worker-1:1:a", info: { "tag" => "shop", "queues" => %w[default mail], "version" => "8.1.7" }),
       member("worker-2:2:b", info: { "tag" => "shop", "queues" => %w[reports], "labels" => %w[canary] }),
       member("mailer-1:3:c", info: { "tag" => "post", "queues" => %w[mail], "version" => "7.3.2" })]
    end

    it "compares with every field, or with the one that is named" do
      { nil => %w[worker-1 worker-2 mailer-1], "worker-*" => %w[worker-1 worker-2], "mail" => %w[worker-1 mailer-1],
        "tag=shop" => %w[worker-1 worker-2], "tag=shop,queue=mail" => %w[worker-1], "label=can*" => %w[worker-2],
        "version=8.*" => %w[worker-1], "hostname=mail" => [], "worker-[13]" => %w[worker-1],
        %w[canary version=7.*] => %w[worker-2 mailer-1], "worker-1:7" => %w[worker-1], "worker-1:1:a" => %w[worker-1],
        "process=mailer-*7" => %w[mailer-1], "identity=*b" => %w[worker-2], "*a" => [],
        "work*:7" => %w[worker-1 worker-2] }.each do |matching, hosts|
        expect(chosen(matching:)).to eq(hosts), matching.inspect
      end
      expect(chosen(matching: "worker-*", except: "queue=reports")).to eq(%w[worker-1])
      expect(chosen(except: %w[canary post])).to eq(%w[worker-1])
    end

    it "says what is wrong with a pattern" do
      expect { described_class.new(matching: "colour=red") }
        .to raise_error(ArgumentError, /is not a pattern: there is no field colour; use one of .* process, identity\z/)
      ["", "tag=", "a,,b"].each do |wrong|
        expect { described_class.new(except: wrong) }
          .to raise_error(ArgumentError, /is not a pattern: write /)
      end
      [/w/, { tag: "shop" }, :worker, [nil]].each do |matching|
        expect { described_class.new(matching:) }
          .to raise_error(ArgumentError, /is not a pattern: write /)
      end
    end

    it "takes an empty list for nobody rather than for everybody" do
      expect { described_class.new(matching: []) }
        .to raise_error(ArgumentError, "match is empty; leave it out to mean all processes")
      expect(described_class.new(except: [])).to be_all
    end

    it "is said in words" do
      { {} => "", { matching: "A" } => "A", { matching: %w[A B] } => "A or B", { except: "B" } => "not B",
        { matching: "A", except: "B" } => "A but not B",
        { matching: %w[A B], except: %w[C D] } => "A or B but not C nor D" }.each do |asked, words|
        expect(described_class.new(**asked).to_s).to eq(words)
      end
    end
  end

  describe SidekiqLifecycle::Fleet::CLI::Table do
    it "shows of each process what chooses it and no other" do
      all = [member("worker:7:a"), member("worker:7:b"), member("mailer:7:c"), ghost("worker:3:d"), ghost("worker:3:e")]
      names = described_class.new(all, colour: false).to_s.lines[1..5].map { |line| line.split.first }
      expect(names).to eq(%w[worker:7:a worker:7:b mailer:7 worker:3:d worker:3:e])
      chosen = names.map do |name|
        selection = SidekiqLifecycle::Fleet::Selection.new(matching: name)
        all.select { |one| selection.include?(one) }
      end
      expect(chosen).to eq(all.map { |one| [one] })
    end
  end

  describe SidekiqLifecycle::Fleet::Targets do
    def targets(*members)
      described_class.new(members.to_h { |one| [one.identity, one] }, SidekiqLifecycle::Fleet::Selection.new)
    end

    it "say who is left out, the embedded where they could only be controlled by others" do
      all = targets(member, member("web:1:x", info: { "embedded" => true }), ghost("old:1:x"))
      expect([all.present.size, all.left_out]).to eq([2, "1 ghost left out"])
      expect([all.controllable.map(&:hostname), all.left_out]).to eq([%w[worker-1], "1 ghost and 1 embedded left out"])
      # A last heartbeat has put it back on Sidekiq's list.
      left = member("worker-2:9:y", published: { left: true })
      expect([targets(member, left).present.map(&:pid), targets(member, left).left_out]).to eq([[7], nil])
    end
  end

  describe SidekiqLifecycle::Fleet::GoalTracker do
    def tracker(goal, *members) = described_class.new(goal, members)

    # A look at Redis, a second after the last one.
    def see(tracker, *members, elapsed: 1)
      tracker.tap { tracker.update(members.to_h { |one| [one.identity, one] }, elapsed) }
    end

    it "takes a process's own word that it has drained" do
      quiet = tracker(:drained, member(quiet: true, published: { state: "quiet" }))
      expect(quiet).not_to be_over
      # Nobody is busy at any beat; what it says itself counts all the same.
      expect(see(quiet, member(quiet: true, beat: 110.0, published: { state: "quiet" }))).not_to be_over
      drained = member(quiet: true, beat: 120.0, published: { state: "quiet", drained: true })
      expect(see(quiet, drained).reached).to eq([drained])
      # And it stays drained when it goes.
      expect(see(quiet, ghost).failed).to be_empty
      expect(quiet).to be_over
    end

    it "believes a count only if it is newer than the quiet, where a process does not have the gem" do
      quiet = tracker(:drained, member(busy: 0))
      expect(see(quiet, member(quiet: true, beat: 110.0, busy: 0))).not_to be_over
      expect(quiet.undecided?(quiet.processes.first)).to be(true)
      expect(see(quiet, member(quiet: true, beat: 110.0, busy: 0))).not_to be_over # the same beat
      expect(see(quiet, member(quiet: true, beat: 120.0, busy: 1))).not_to be_over # it was just fetching
      expect(see(quiet, member(quiet: true, beat: 130.0, busy: 0))).to be_over
      expect(quiet.failed).to be_empty
    end

    it "does not fall back on counts where a process has the gem and its word is missing once" do
      quiet = tracker(:drained, member(quiet: true, published: { state: "quiet" }))
      see(quiet, member(quiet: true, beat: 110.0))
      expect(see(quiet, member(quiet: true, beat: 120.0))).not_to be_over
    end

    it "says why a process will never have drained" do
      left = tracker(:drained, member)
      expect(see(left, gone).failed.values).to eq(["ended before it was seen to have drained"])
      cut = tracker(:drained, member(published: {}))
      see(cut, gone(published: { state: "stopping", interrupted: 2 }))
      expect(cut.failed.values)
        .to eq(["ended before it was seen to have drained (2 interrupted at its timeout and pushed back)"])
      lost = tracker(:drained, member(published: {}))
      see(lost, gone(published: { state: "stopping", interrupted: 2, lost: 1 }))
      expect(lost.failed.values).to eq(["ended before it was seen to have drained (1 job lost)"])
      named = tracker(:drained, member(published: {}))
      job = { class: "Mail", jid: "a1", queue: "low", running_for: 125.0 }
      see(named, gone(published: { state: "stopping", interrupted: 2, interrupted_jobs: [job, "garbage"] }))
      expect(named.failed.values)
        .to eq(["ended before it was seen to have drained (2 interrupted at its timeout and pushed back: " \
                "Mail a1 (queue low, running for 2 min 5 s); a job whose name is not known)"])
      killed = tracker(:drained, member)
      expect(see(killed, ghost).failed.values)
        .to eq(["fell silent, as if it had been killed: the jobs it had may be lost"])
      expect(killed).to be_over
    end

    it "says of whom has stopped how many jobs he could not push back" do
      ended = tracker(:stopped, member(published: {}))
      see(ended, gone(published: { state: "stopping", lost: 2 }))
      expect(ended.failed.values).to eq(["has ended and lost 2 jobs"])
      see(ended, gone(published: { state: "stopping", lost: 1, lost_jobs: [{ class: "Mail", jid: "a1" }] }))
      expect(ended.failed.values).to eq(["has ended and lost 1 job: Mail a1"])
      expect(ended).to be_over
    end

    it "waits no longer for a process that says that it can never drain, but for its end it does" do
      stuck = member(quiet: true, published: { state: "quiet", never_drains: "a thread has died" })
      draining = see(tracker(:drained, member(published: {})), stuck)
      expect(draining.failed.values).to eq(["can never drain: a thread has died"])
      expect([draining.over?, draining.stuck?]).to eq([true, true])
      expect(tracker(:stopped, stuck)).not_to be_over
    end

    it "gives a process time to come back that is missing without a trace: Redis may have restarted" do
      %i[quiet drained stopped].each do |goal|
        missing = SidekiqLifecycle::Fleet::Process.new("worker-1:7:abc", listed: false)
        told = tracker(goal, member)
        60.times { expect(see(told, missing)).not_to be_over, goal.to_s }
        expect(see(told, member)).not_to be_over
        expect(see(told, missing, elapsed: 61)).to be_over
        expect(told.failed.values).to eq(["has gone without a trace: it is unknown whether it had drained"])
      end
    end

    it "takes back what it said of one that comes back" do
      silent = see(tracker(:drained, member, member("b:2:y")), ghost, member("b:2:y"))
      expect(silent.failed.keys).to eq(["worker-1:7:abc"])
      expect(see(silent, member, member("b:2:y")).failed).to be_empty
    end

    it "knows of whom a few more beats will tell" do
      quiet = tracker(:drained, member(quiet: true, published: { state: "quiet" }))
      undecided = -> { quiet.undecided?(quiet.processes.first) }
      expect(undecided.call).to be(true)
      see(quiet, member(quiet: true, beat: 110.0, busy: 1, published: { state: "quiet" }))
      expect(undecided.call).to be(false), "it is busy"
      told = [120.0, 130.0, 140.0].map do |beat|
        see(quiet, member(quiet: true, beat:, published: { state: "quiet" }))
        undecided.call
      end
      expect(told).to eq([true, true, false])
    end

    it "takes a last word" do
      quiet = tracker(:drained, member(published: {}))
      expect(see(quiet, gone(published: { state: "stopping", drained: true })).failed).to be_empty
      expect(quiet.reached.size).to eq(1)
    end

    it "tells who has stopped from who was killed" do
      stopped = tracker(:stopped, member("a:1:x"), member("b:2:y"))
      see(stopped, gone("a:1:x"), ghost("b:2:y"))
      expect(stopped.reached.map(&:identity)).to eq(["a:1:x"])
      expect(stopped.failed.keys).to eq(["b:2:y"])
    end

    it "counts a process that has left as quiet, but not one that was killed" do
      left = see(tracker(:quiet, member), gone)
      expect([left.over?, left.failed]).to eq([true, {}])
      [member, member(quiet: true)].each do |one|
        killed = see(tracker(:quiet, one, member("b:2:y", quiet: true)), ghost, member("b:2:y", quiet: true))
        expect(killed.failed).to match("worker-1:7:abc" => /\Afell silent/)
        expect(killed.reached.map(&:identity)).to eq(["b:2:y"])
      end
      expect(tracker(:quiet, member(quiet: true))).to be_over
      expect(tracker(:quiet, member)).not_to be_over
    end
  end

  describe "what is asked of it" do
    it "has to make sense" do
      fleet = described_class.new
      expect { fleet.wait(:busy) }.to raise_error(ArgumentError, /no :busy to wait for; use one of :ready, :quiet/)
      expect { fleet.quiet(timeout: 0) }.to raise_error(ArgumentError, /timeout is 0; set it/)
      [0, -1, 0.0, 1.5, Float::NAN, "10%"].each do |batch|
        expect { fleet.stop(batch:) }.to raise_error(ArgumentError, /batch is #{Regexp.escape(batch.inspect)}; set it/)
      end
    end
  end

  it "says that Redis does not answer, whatever is asked" do
    deaf = Class.new { def redis = raise(Errno::ECONNREFUSED) }
    %i[processes members quiet].each do |ask|
      expect { described_class.new(deaf.new).public_send(ask) }
        .to raise_error(SidekiqLifecycle::Fleet::Unreachable, /\ARedis does not answer: Connection refused/)
    end
  end

  it "says stretches of time" do
    { 0.4 => "0 s", 59.9 => "59 s", 60 => "1 min", 61 => "1 min 1 s", 3600 => "1 h", 90_000 => "1 d 1 h" }
      .each { |seconds, words| expect(SidekiqLifecycle::Fleet::Format.duration(seconds)).to eq(words) }
  end
end
