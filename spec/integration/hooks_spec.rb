# frozen_string_literal: true

require "socket"

RSpec.describe "the time that an application's hooks take when a Sidekiq stops" do
  # A hook that runs until {#release}.
  def held(event)
    "Sidekiq.configure_server { |config| config.on(:#{event}) { note 'begins'; sleep 0.01 until File.exist?('go') } }"
  end

  def slow(event) = "Sidekiq.configure_server { |config| config.on(:#{event}) { sleep 5 } }"
  def hooks(worker) = record(worker.pid)["hooks"]
  def problems(worker) = problems_of(worker.pid)

  # Waits for the record, because the ready file of a killed process is still there.
  def start_running(**options)
    worker = start(**options)
    wait_until("running") { record(worker.pid)&.fetch("state") == "running" || worker.raise_if_ended }
    worker
  end

  def stop(worker)
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
  end

  it "is logged and requested from systemd while they run, and known to the next processes" do
    socket = Socket.new(:UNIX, :DGRAM).tap { |listener| listener.bind(Addrinfo.unix(file("notify"))) }
    # Read at once, as systemd does: the kernel keeps ten messages, and the others would be lost.
    asked = []
    reader = Thread.new do
      loop do
        time = socket.recv(4096)[/^EXTEND_TIMEOUT_USEC=(\d+)/, 1]
        asked << [Waiting.now, time.to_i] if time
      end
    end
    worker = start_ready(after: held("quiet"), environment: { "NOTIFY_SOCKET" => file("notify") })
    expect(record(worker.pid)).to include("hooks" => nil)
    worker.signal(:TERM)
    wait_until("it is logged") { worker.log.include?("sidekiq_lifecycle: :quiet hooks have been delaying the stop") }
    # As much a second later, because `-t` and the 4 s have not started yet.
    wait_until("systemd is asked for time again") do
      asked.combination(2).any? { |(before, much), (now, again)| now - before > 1 && (much - again).abs < 100_000 }
    end
    wait_until("its record knows") { hooks(worker) && hooks(worker) >= 3 }
    release
    expect(worker.exit_code).to eq(0)
    expect(problems(worker)).to include(match(/\Ahooks took \d+\.\d s of this stop \(:quiet \d+\.\d s/))
    taken = hooks(worker)
    %w[second third].each do |name|
      worker = start_running(name:)
      expect(hooks(worker)).to eq(taken)
      worker.kill
    end
    # This one has no slow hooks.
    stop(worker = start_running(name: "fourth"))
    expect(hooks(worker)).to be < taken
  ensure
    reader&.kill
    socket&.close
  end

  it "is known up to the kill of a process that is killed meanwhile" do
    worker = start_ready(after: held("quiet"))
    worker.signal(:TSTP)
    wait_until("its record knows") { hooks(worker) && hooks(worker) >= 1 }
    worker.kill
    expect(hooks(start_running(name: "second"))).to be >= 1
  end

  it "includes at_exit blocks that run before ours" do
    stop(worker = start_ready(after: "at_exit { sleep 1.5 }"))
    expect(hooks(worker)).to be_between(1.5, 60)
    expect(problems(worker)).to include(match(/\Ahooks took .*at_exit \d/))
  end

  it "includes hooks at :shutdown where Sidekiq does not stop the jobs meanwhile" do
    stop(worker = start_ready(after: slow("shutdown"), timeout: 60))
    expect(hooks(worker)).to(Sandbox::MAJOR == 6 ? be >= 5 : be < 5)
  end
end
