# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::SignalTraps do
  # Traps belong to a process: each example's are set, and hear signals, in a forked child. Its last value comes back.
  def in_child(code)
    reader, writer = IO.pipe
    child = fork do
      heard = []
      # A trap is known by the file it was written in.
      sidekiqs = eval("proc { heard << :sidekiq }", binding, "/sidekiq/cli.rb") # rubocop:disable Style/EvalWithLocation
      %w[TERM INT TSTP].each { |signal| Signal.trap(signal, sidekiqs) }
      writer.write(Marshal.dump(instance_exec(heard, sidekiqs, &code)))
    rescue Exception => e # rubocop:disable Lint/RescueException
      writer.write(Marshal.dump("#{e.class}: #{e.message}"))
    ensure
      writer.flush
      exit!(0)
    end
    writer.close
    Marshal.load(reader.read) # rubocop:disable Security/MarshalLoad
  ensure
    reader.close
    Process.wait(child)
  end

  # A signal that a process sends itself has been heard when `kill` returns (`Process.kill`).
  def send_self(*signals) = signals.each { |signal| Process.kill(signal, Process.pid) }

  it "knows Sidekiq's own traps, and only those" do
    found = in_child(lambda do |_, sidekiqs|
      [sidekiqs, proc {}, "DEFAULT", "IGNORE", "", nil].map { |trap| SidekiqLifecycle::SignalTraps.sidekiq?(trap) }
    end)
    expect(found).to eq([true, false, false, false, false, false])
  end

  it "leaves the traps in place that it remembers" do
    found = in_child(lambda do |heard, sidekiqs|
      described_class.new
      send_self(:TERM, :INT, :TSTP)
      kept = %w[TERM INT TSTP].map { |signal| Signal.trap(signal, "DEFAULT").equal?(sidekiqs) }
      [heard, kept]
    end)
    expect(found).to eq([%i[sidekiq sidekiq sidekiq], [true, true, true]])
  end

  it "restores Sidekiq's trap behind the one that took its place" do
    found = in_child(lambda do |heard, _|
      traps = described_class.new
      Signal.trap("TERM") { heard << :other }
      send_self(:TERM)
      who = traps.restore("SIGTERM")
      send_self(:TERM, :INT)
      [heard, who]
    end)
    expect(found.first).to eq(%i[other other sidekiq sidekiq])
    expect(found.last).to match(/\A#{Regexp.escape(__FILE__)}:\d+\z/)
  end

  it "does not pile up what it has restored" do
    found = in_child(lambda do |heard, _|
      traps = described_class.new
      Signal.trap("TERM") { heard << :first }
      traps.restore("SIGTERM")
      again = Array.new(3) { traps.restore("SIGTERM") }
      Signal.trap("TERM") { heard << :second }
      traps.restore("SIGTERM")
      send_self(:TERM)
      [heard, again]
    end)
    expect(found).to eq([%i[second sidekiq], [nil, nil, nil]])
  end

  it "says that nobody of Ruby's took a trap that is still there" do
    found = in_child(lambda do |heard, sidekiqs|
      traps = described_class.new
      who = traps.restore("SIGTERM")
      send_self(:TERM)
      [heard, who, Signal.trap("TERM", "DEFAULT").equal?(sidekiqs)]
    end)
    expect(found).to eq([[:sidekiq], nil, true])
  end

  it "restores over a command, and names it" do
    found = in_child(lambda do |heard, _|
      traps = described_class.new
      who = %w[IGNORE DEFAULT SYSTEM_DEFAULT].map do |command|
        Signal.trap("TERM", command)
        traps.restore("SIGTERM").tap { send_self(:TERM) }
      end
      [heard, who]
    end)
    expect(found).to eq([%i[sidekiq sidekiq sidekiq], ['"IGNORE"', '"DEFAULT"', '"SYSTEM_DEFAULT"']])
  end

  it "lets nothing that another's trap raises keep the signal from Sidekiq" do
    found = in_child(lambda do |heard, _|
      $stdout = StringIO.new
      traps = described_class.new
      [-> { raise "no" }, -> { exit 7 }, -> { raise Interrupt }, -> { throw :up }].each do |trap|
        Signal.trap("TERM", trap)
        traps.restore("SIGTERM")
        send_self(:TERM)
      end
      [heard, $stdout.string.scan(/a trap raised (\S+):/).flatten]
    end)
    expect(found).to eq([%i[sidekiq] * 4, %w[RuntimeError SystemExit Interrupt UncaughtThrowError]])
  end

  it "calls a trap as Ruby does, with the signal's number" do
    found = in_child(lambda do |heard, _|
      callable = Object.new
      callable.define_singleton_method(:call) { |number| heard << number }
      block = proc { |number| heard << number }
      none = -> { heard << :none }
      any = ->(*numbers) { heard.concat(numbers) }
      [callable, block, none, any, "IGNORE", nil].each { |trap| described_class.call(trap, "SIGTSTP") }
      heard
    end)
    expect(found).to eq([20, 20, :none, 20])
  end

  it "leaves each trap as it was when it looks whether the application has one, also a native one" do
    require "fiddle"
    heard = 0
    before = Signal.trap("USR2") { heard += 1 }
    expect(described_class.send(:current, "SIGUSR2")).to respond_to(:call)
    Process.kill(:USR2, Process.pid)
    Timeout.timeout(60) { sleep 0.01 until heard == 1 }
    # A function of C's that does no harm stands for a handler; without it the process would end.
    types = [[Fiddle::TYPE_INT, Fiddle::TYPE_VOIDP], Fiddle::TYPE_VOIDP]
    set = Fiddle::Function.new(Fiddle::Handle::DEFAULT["signal"], *types)
    harmless = Fiddle::Handle::DEFAULT["getpid"]
    Signal.trap("USR2", "DEFAULT")
    set.call(Signal.list["USR2"], harmless)
    expect(described_class.send(:current, "SIGUSR2")).to be_nil
    expect(set.call(Signal.list["USR2"], harmless).to_i).to eq(harmless)
  ensure
    Signal.trap("USR2", before || "DEFAULT")
  end
end
