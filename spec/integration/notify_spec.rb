# frozen_string_literal: true

require "io/wait"
require "sidekiq_lifecycle/generate/stop_times"
require "socket"

RSpec.describe "the notification of systemd" do
  # Listens as systemd does, and keeps the messages, each a list of its lines.
  def listen(path = file("notify"))
    @socket = Socket.new(:UNIX, :DGRAM).tap { |socket| socket.bind(Addrinfo.unix(path)) }
    @messages = []
    # At once: the kernel keeps ten messages, and the others would be lost.
    @reader = Thread.new { loop { @socket.wait_readable && messages } }
  end

  def stop_listening
    @reader&.kill&.join
    @socket&.close
  end

  before { @lock = Mutex.new }
  after { stop_listening }

  def messages
    @lock.synchronize do
      while (message = @socket.recv_nonblock(4096, exception: false)) != :wait_readable
        @messages << message.split("\n")
      end
      @messages
    end
  end

  # Sends until the socket is full, and nobody reads.
  def fill_up
    @reader.kill.join
    Socket.open(:UNIX, :DGRAM) do |socket|
      socket.connect(Addrinfo.unix(file("notify")))
      nil until socket.sendmsg_nonblock("STATUS=none", exception: false) == :wait_writable
    end
  end

  def said = messages.flatten
  def count(line) = said.count(line)
  def wait_for(line) = wait_until("systemd receives #{line}\n#{messages}") { said.include?(line) }
  def environment(**more) = { "NOTIFY_SOCKET" => file("notify"), **more.transform_keys(&:to_s) }
  def extensions(from = 0) = said.drop(from).filter_map { |line| line[/\AEXTEND_TIMEOUT_USEC=(\d+)\z/, 1]&.to_i }

  # Set before the gem is installed, because the gem reads it then.
  quick_heartbeat = "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}"
  feeding = { WATCHDOG_USEC: "2000000" }.freeze

  it "is each state, once, instead of Sidekiq's own, after every :startup hook has run" do
    listen
    worker = start(environment:, startup: 'note "starting"; sleep 0.01 until File.exist?("start")')
    wait_for_note("starting")
    wait_for("STATUS=booting")
    expect(said - ["STATUS=booting"]).to be_empty
    FileUtils.touch(file("start"))
    wait_for("READY=1")
    expect(messages.find { |message| message.include?("READY=1") }).to eq(["READY=1", "STATUS=running, 0 of 2 busy"])
    wait_until("the ready file is there") { worker.ready_file? }
    worker.signal(:TSTP)
    wait_for("STATUS=quiet, drained")
    expect(said).not_to include("STOPPING=1")
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(said.last).to eq("STATUS=stopped (exit 0, SIGTERM)")
    expect(said.grep(/=1$/)).to eq(["READY=1", "STOPPING=1"])
    expect(extensions).to be_empty
    expect(problems_of(worker.pid)).to be_empty
  end

  it "is STOPPING even if the process has no descriptor left" do
    listen
    launcher = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]
    worker = start_ready(environment:, launcher:)
    push("Evaluate", <<~RUBY)
      $leaked = []
      begin
        loop { $leaked << File.open(File::NULL) }
      rescue SystemCallError
        $stdout.syswrite("all used up\n")
      end
    RUBY
    wait_until("the descriptors are used up") { worker.log.include?("all used up") || worker.raise_if_ended }
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    messages
    expect(said.grep(/=1$/)).to eq(["READY=1", "STOPPING=1"])
    expect(said.last).to eq("STATUS=stopped (exit 0, SIGTERM)")
  end

  it "is STOPPING and the needed time when TERM arrives, and the time left at each heartbeat" do
    listen
    worker = start_ready(environment:, before: quick_heartbeat, timeout: 50)
    start_job
    wait_for("STATUS=running, 1 of 2 busy")
    worker.signal(:TERM)
    wait_for("STOPPING=1")
    first = messages.find { |message| message.include?("STOPPING=1") }
    expect(first[0, 2]).to match(["STOPPING=1", /\ASTATUS=stopping, 1 of 2 busy: #{named_job}\z/])
    expect(first[2]).to match(/\AEXTEND_TIMEOUT_USEC=5\d{7}\z/)
    # It starts again when Sidekiq itself handles the signal, and decreases from then on.
    wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
    heard = said.size
    wait_until("further beats") { extensions(heard).size > 3 }
    left = extensions(heard)
    expect(left).to eq(left.sort.reverse).and all(be_between(1, 54_000_000))
    release
    expect(worker.exit_code).to eq(0)
    expect(count("STOPPING=1")).to eq(1)
    expect(said).to include("STATUS=stopping, drained")
  end

  it "is READY also from a process that is quiet at once, but not from one stopped before that" do
    listen
    worker = start(environment:, after: 'note "booting"; sleep 0.01 until File.exist?("go")')
    wait_for_note("booting")
    worker.signal(:TSTP)
    release
    wait_for("READY=1")
    expect(messages.find { |message| message.include?("READY=1") }[1]).to match(/\ASTATUS=quiet, /)
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)

    messages.clear
    worker = start(environment:, name: "second", startup: 'note "starting"; sleep 0.01 until File.exist?("end")')
    wait_for_note("starting")
    worker.signal(:TERM)
    wait_for("STOPPING=1")
    FileUtils.touch(file("end"))
    expect(worker.exit_code).to eq(0)
    expect([count("READY=1"), count("STOPPING=1")]).to eq([0, 1])
  end

  it "is how a failed boot has ended" do
    listen
    worker = start(environment:, after: 'raise "no database"')
    expect(worker.exit_code).to eq(1)
    expect(said.last).to eq("STATUS=stopped (exit 1, RuntimeError: no database)")
    expect(said).not_to include("READY=1")
  end

  context "with a watchdog" do
    def fed = count("WATCHDOG=1")

    it "comes with each heartbeat, and does not come while a job holds the GVL" do
      listen
      worker = start_ready(environment: environment(**feeding), before: quick_heartbeat)
      wait_until("it is fed") { fed > 3 }
      lock = File.new(file("lock"), File::CREAT | File::RDWR).tap { |file| file.flock(File::LOCK_EX) }
      push("Evaluate", <<~RUBY)
        require "fiddle"
        int = Fiddle::TYPE_INT
        flock = Fiddle::Function.new(Fiddle.dlopen(nil)["flock"], [int, int], int, need_gvl: true)
        lock = File.open("lock")
        nil until flock.call(lock.fileno, File::LOCK_EX).zero?
        note "released"
      RUBY
      wait_until("the job holds the GVL") { File.read("/proc/locks").match?(/-> FLOCK .* #{worker.pid} /) }
      stuck = fed
      sleep 1
      # One may have been on its way.
      expect(fed).to be_between(stuck, stuck + 1)
      worker.signal(:TERM)
      # The signal is still reported, and the time requested.
      wait_for("STOPPING=1")
      expect(extensions).not_to be_empty
      lock.close
      expect(worker.exit_code).to eq(0)
      expect(notes).to eq(["released"])
    end

    it "is fed while it drains" do
      listen
      worker = start_ready(environment: environment(**feeding), before: quick_heartbeat, timeout: 50)
      start_job
      worker.signal(:TERM)
      wait_for("STOPPING=1")
      before = fed
      wait_until("it is fed") { fed > before + 2 }
      release
      expect(worker.exit_code).to eq(0)
    end

    it "leaves a watchdog that is too short for the heartbeat to Sidekiq, and reports it" do
      listen
      worker = start_ready(environment: environment(**feeding))
      # Sidekiq's own thread notifies systemd, also between two heartbeats.
      wait_until("it is fed") { messages.count(["WATCHDOG=1"]) > 2 }
      pause = Sandbox::MAJOR == 6 ? 5 : 10
      problem = "systemd's watchdog of 2 s is shorter than two heartbeats, one every #{pause} s, so Sidekiq's own " \
                "thread feeds it, which detects less: set WatchdogSec=60"
      expect(problems_of(worker.pid)).to eq([problem])
      expect(worker.log.scan(problem).size).to eq(1)
      expect(count("READY=1")).to eq(1)
    end

    it "is still fed by a heartbeat that waits for a hanging Redis, and Redis gets no more commands from the gem" do
      own_redis
      listen
      announces = 'SidekiqLifecycle::RedisStatus.prepend(Module.new { def publish(...) = (note("announces"); super) })'
      worker = start_ready(environment: environment(WATCHDOG_USEC: "60000000"), before: quick_heartbeat,
                           install: "config.redis = { url: #{redis.url(@database).inspect}, network_timeout: 1 }",
                           after: announces)
      announced = -> { notes.count("announces") }
      failed = -> { worker.log.scan("heartbeat: ").size }
      wait_until("it is announced") { announced.call.positive? }
      redis.freeze_process
      wait_until("a heartbeat fails") { failed.call.positive? }
      before = [announced.call, fed]
      wait_until("others do") { failed.call > 3 }
      expect(announced.call).to eq(before.first)
      # Before it asks Redis, and when it has waited.
      expect(fed).to be >= before.last + 5
      redis.thaw_process
      wait_until("it is announced again") { announced.call > before.first }
      expect(worker.log).not_to match(/sidekiq_lifecycle: (beat|heartbeat)/)
    end

    it "is reported at boot if it is shorter than the application's Redis client may wait" do
      listen
      client = "config.redis = { url: #{redis.url(@database).inspect}, network_timeout: 10 }"
      worker = start_ready(environment: environment(WATCHDOG_USEC: "30000000"), install: client)
      longest, advised = Sandbox::MAJOR == 6 ? [60, 70] : [80, 90]
      problem = "with the timeouts of this application's Redis client, a hanging Redis can block Sidekiq's heartbeat " \
                "for #{longest} s, and systemd's watchdog kills it, with its jobs, after 30 s: set shorter timeouts " \
                "in config.redis, or WatchdogSec=#{advised}"
      expect(problems_of(worker.pid)).to eq([problem])
      # The log line comes after the ready file.
      wait_until("it is in the log") { worker.log.scan(problem).size == 1 }
    end

    it "is long enough for Sidekiq's default timeouts, as generate writes it" do
      listen
      seconds = SidekiqLifecycle::Generate::StopTimes::WATCHDOG
      worker = start_ready(environment: environment(WATCHDOG_USEC: (seconds * 1_000_000).to_s))
      expect(problems_of(worker.pid)).to be_empty
    end

    it "is not fed if it is another process's" do
      listen
      start_ready(environment: environment(**feeding, WATCHDOG_PID: "1"), before: quick_heartbeat)
      wait_until("beats") { messages.count(["STATUS=running, 0 of 2 busy"]) > 3 }
      expect(fed).to eq(0)
    end
  end

  context "when the socket fails" do
    it "continues without it, reports that once, and notifies again when it is back" do
      listen
      worker = start_ready(environment:, before: quick_heartbeat)
      wait_for("READY=1")
      stop_listening
      File.delete(file("notify"))
      problem = /cannot notify systemd through "#{file("notify")}": No such file or directory/
      wait_until("it is reported") { problems_of(worker.pid).grep(problem).any? }
      wait_until("it is logged") { worker.log.match?(problem) }
      listen
      wait_for("STATUS=running, 0 of 2 busy")
      wait_until("all is well") { problems_of(worker.pid).empty? }
      expect(worker.log.scan(problem).size).to eq(1)
      expect(count("READY=1")).to eq(0)
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(said).to include("STOPPING=1")
    end

    it "sends at the next heartbeat what it could not send at once" do
      worker = start_ready(environment:, before: quick_heartbeat)
      expect(problems_of(worker.pid)).to match([/cannot notify systemd/])
      listen
      wait_for("READY=1")
      wait_until("all is well") { problems_of(worker.pid).empty? }
    end

    it "does not wait for a socket that is not read" do
      listen
      worker = start_ready(environment:, before: quick_heartbeat)
      fill_up
      wait_until("it is full") { problems_of(worker.pid).grep(/temporarily unavailable/).any? }
      expect(check("live").first).to eq(0)
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end
  end

  it "also reaches a socket in the abstract namespace" do
    name = "sidekiq_lifecycle-#{Process.pid}-#{@database}"
    listen("\0#{name}")
    start_ready(environment: environment(NOTIFY_SOCKET: "@#{name}"))
    wait_for("READY=1")
  end

  it "is each state, once, if another :startup hook forks before ours" do
    listen
    fork_first = "Sidekiq.configure_server { |config| config.on(:startup) { Process.wait(fork { exit!(0) }) } }"
    worker = start_ready(environment:, before: "require \"sidekiq\"\n#{fork_first}")
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(said.grep(/=1$/)).to eq(["READY=1", "STOPPING=1"])
  end

  it "never comes from a child that a job has forked" do
    listen
    worker = start_ready(environment:)
    push("Evaluate", 'Process.wait(fork { exit 0 }); note "child ended"')
    wait_for_note("child ended")
    expect(said.grep(/stopped/)).to be_empty
    expect(worker).to be_running
  end

  it "is nothing without a socket, and Sidekiq's own part is not even loaded" do
    start_ready(startup: "note defined?(Sidekiq::SdNotify).inspect")
    wait_until("noted") { notes.any? }
    expect(notes).to eq(["nil"])
  end

  if Sandbox::MAJOR > 6
    it "is left to the host program if Sidekiq is embedded" do
      listen
      File.write(file("host.rb"), <<~RUBY)
        require "sidekiq"
        require "sidekiq_lifecycle"
        instance = Sidekiq.configure_embed do |config|
          config.redis = { url: #{redis.url(@database).inspect} }
          SidekiqLifecycle.install(config)
        end
        instance.run
        sleep 0.01 until File.exist?("go")
        instance.stop
      RUBY
      host = start_program(RbConfig.ruby, "./host.rb", environment:)
      await_ready(host)
      release
      expect(host.exit_code).to eq(0)
      expect(said).to be_empty
    end
  end
end
