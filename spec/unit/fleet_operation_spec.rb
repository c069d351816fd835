# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::Fleet::Operation do
  # What Redis shows, look by look (the last one for ever), and who was told what.
  let(:registry) do
    Class.new do
      attr_reader :told

      def initialize(looks)
        @looks = looks
        @told = []
      end

      def processes(also = [])
        look = @looks.size > 1 ? @looks.shift : @looks.first
        missing = also.to_h { |identity| [identity, SidekiqLifecycle::Fleet::Process.new(identity, listed: false)] }
        missing.merge(look.to_h { |member| [member.identity, member] })
      end

      def first_poll = processes

      def signal(members, name, **)
        members.each_slice(2) do |slice|
          @told.concat(slice.map { |member| [member.identity, name] })
          yield slice
        end
      end

      def jobs(*) = []
    end
  end

  let(:progress) { [] }

  def member(identity, listed: true, beat: 100.0, age: 1000, busy: 0, quiet: false, published: nil)
    info = JSON.generate(hostname: identity[0], pid: 1, started_at: beat - age, version: "8.1.7")
    fields = { "info" => info, "beat" => beat.to_s, "busy" => busy.to_s, "quiet" => quiet.to_s }
    SidekiqLifecycle::Fleet::Process.new(identity, listed:, fields:, beat_age: 0.0, published:)
  end

  def gone(identity) = member(identity, listed: false)

  # As the operation's own, without the time that passes.
  def operation(*looks, timeout: 600, &listener)
    @registry = registry.new(looks)
    selection = SidekiqLifecycle::Fleet::Selection.new
    operation = described_class.new(@registry, selection, timeout) { |step| (progress << step) && listener&.call(step) }
    operation.tap { allow(operation).to receive(:sleep) }
  end

  def told = @registry.told

  let(:both) { [member("a:1:x"), member("b:1:x")] }

  describe "a rolling stop" do
    # A new process at a heartbeat.
    def fresh(identity, beat) = member(identity, beat: 100.0 + beat, age: 0.0)

    it "tells those of a later batch who were without a trace when their turn came" do
      after_first = [gone("a:1:x"), fresh("c:1:x", 0)]
      once_more = [gone("a:1:x"), fresh("c:1:x", 1e-9), member("b:1:x")]
      restarted = [fresh("c:1:x", 0.00001)] # with nothing in it but who has beaten since
      ended = [gone("a:1:x"), gone("b:1:x"), fresh("c:1:x", 0.00002), fresh("d:1:x", 0)]
      last = [gone("a:1:x"), gone("b:1:x"), fresh("c:1:x", 0.00003), fresh("d:1:x", 0.00001)]
      reached = operation(both, [*after_first, both.last], restarted, once_more, ended, last)
                .stop(drain_first: false, batch: 1)
      expect(told).to eq([["a:1:x", "TERM"], ["b:1:x", "TERM"]])
      expect(reached.to_s).to eq("2 of 2 ready, batch 2 of 2")
    end

    it "does not lose from its total who goes by itself, and tells him nothing" do
      ended = [gone("a:1:x"), gone("b:1:x")]
      reached = operation(both, [*ended, fresh("c:1:x", 0)], [*ended, fresh("c:1:x", 0.00001)])
                .stop(drain_first: false, batch: 1)
      expect(told).to eq([["a:1:x", "TERM"]])
      expect(reached.to_s).to eq("2 of 2 ready, batch 2 of 2; 1 exited before its turn")
    end

    it "ends with who was killed before his turn" do
      ended = [gone("a:1:x"), SidekiqLifecycle::Fleet::Process.new("b:1:x", listed: true)]
      stop = operation(both, [*ended, fresh("c:1:x", 0)], [*ended, fresh("c:1:x", 0.00001)])
      expect { stop.stop(drain_first: false, batch: 1) }
        .to raise_error(SidekiqLifecycle::Fleet::NotReached, /\A1 of 2 not stopped: b:1 fell silent/)
    end
  end

  it "stops who can never drain all the same, and says so at the end" do
    published = JSON.generate(state: "quiet", ready: false, drained: false, never_drains: "a thread has died")
    stuck = member("a:1:x", quiet: true, published:)
    stop = operation([stuck], [stuck], [gone("a:1:x")])
    expect { stop.stop(drain_first: true, batch: nil) }.to raise_error(
      SidekiqLifecycle::Fleet::NotReached, "1 of 1 not drained: a:1 can never drain: a thread has died; 1 of 1 stopped"
    )
    expect(told).to eq([["a:1:x", "TSTP"], ["a:1:x", "TERM"]])
  end

  it "says before it tells anybody who else ends" do
    company = "foreman (pid 1) ends all of its processes when process 7 ends; quiet ends no process"
    alone = member("a:1:x", published: JSON.generate(state: "running", ready: true, drained: false, company:))
    told_at_first = nil
    operation([alone], [gone("a:1:x")]) { told_at_first ||= told.dup }.stop(drain_first: false, batch: nil)
    expect(told_at_first).to eq([])
    expect(progress.first.to_s).to eq("0 of 1 stopped, a:1: #{company}")
    expect(told).to eq([["a:1:x", "TERM"]])
  end

  it "knows how many have been told, whatever ends it in the middle of that" do
    four = %w[a b c d].map { |name| member("#{name}:1:x") }
    stop = operation(four) { |step| raise Interrupt if step.told["stop"] == 2 }
    expect { stop.stop(drain_first: false, batch: nil) }.to raise_error(Interrupt)
    expect(progress.map(&:told)).to eq([{}, { "stop" => 2 }])
  end

  it "counts those of a later batch as soon as they have been told" do
    new = [0, 0.00001].map { |beat| member("c:1:x", beat: 100.0 + beat, age: 0.0) }
    stop = operation(both, *new.map { |one| [gone("a:1:x"), both.last, one] }) do |step|
      raise Interrupt if step.told["stop"] == 2
    end
    expect { stop.stop(drain_first: false, batch: 1) }.to raise_error(Interrupt)
    expect(progress.last.to_s).to eq("1 of 2 stopped, batch 2 of 2")
  end

  describe "that is not reached in time" do
    def quiet(identity, beat: 100.0, busy: 0) = member(identity, beat:, busy:, quiet: true)

    # As above, but time passes.
    def operation(...) = super.tap { |operation| allow(operation).to receive(:sleep) { sleep 0.01 } }

    it "says whom a wake left alone as busy" do
      busy = quiet("b:1:x", busy: 2)
      looks = [[quiet("a:1:x"), busy], [quiet("a:1:x", beat: 110.0), busy], [gone("a:1:x"), busy]]
      expect { operation(*looks, timeout: 0.5).wake(even_busy: false) }
        .to raise_error(SidekiqLifecycle::Fleet::TimedOut, "timed out after 0 s: 0 of 1 ready, waiting for " \
                                                           "replacements; still busy and left alone: b:1 (2 jobs)")
    end

    it "says that nobody is there any more to get ready" do
      expect { operation([quiet("a:1:x")], [], timeout: 0.1).wait(:ready) }.to raise_error(
        SidekiqLifecycle::Fleet::TimedOut, /: 0 of 0 ready, no process is there, waiting for new ones\z/
      )
    end
  end
end
