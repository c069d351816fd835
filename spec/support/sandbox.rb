# frozen_string_literal: true

require "fileutils"
require "json"
require "open3"
require "securerandom"
require "tmpdir"

# The environment of an integration example: its own directory for the application, its own database in a real Redis,
# real Sidekiq processes and the real command.
module Sandbox
  MAJOR = Sidekiq::VERSION.to_i
  COMMAND = SidekiqLifecycle::CLI.path

  @databases = 0
  @lock = Mutex.new
  def self.next_database = @lock.synchronize { @databases = (@databases + 1) % 512 }

  def self.included(group)
    group.around do |example|
      Dir.mktmpdir("app") do |directory|
        @app = File.realpath(directory)
        @database = Sandbox.next_database
        @workers = []
        example.run
        expect(@workers.flat_map { |worker| worker.log.lines.grep(/has deprecated/) }).to be_empty
      ensure
        (@workers || []).each(&:kill)
        @mounts&.each { |path| system("umount", "--lazy", path, exception: true) }
        @own_redis&.stop
        example.exception && (@workers || []).each { |worker| warn worker }
      end
    end
  end

  attr_reader :app, :database

  def redis = @own_redis || RedisServer.shared

  # A separate Redis, for an example that stops it.
  def own_redis = @own_redis ||= RedisServer.new

  # Starts a Sidekiq. `install` goes into the block of `install`, `before` runs at the top of the application, before
  # the gem is loaded, `after` at its end, `startup` in a :startup hook of the application.
  def start(**options)
    Worker.new(app:, redis:, database: @database, **options).tap { |worker| @workers << worker }
  end

  # Starts one and waits until it is ready.
  def start_ready(**options) = await_ready(start(**options))

  # Waits until a process is ready, and its record says so: the file comes first.
  def await_ready(process)
    wait_until("ready", &-> { process.ready_file? || process.raise_if_ended })
    wait_until("its record says so") { record(process.pid)&.fetch("state") != "booting" }
    process
  end

  # Waits for a state in the record of a process.
  def await_state(process, state)
    wait_until("its record says #{state}") { record(process.pid)&.fetch("state") == state || process.raise_if_ended }
  end

  # Waits until a process has drained, and its record says so: the file comes first.
  def await_drained(process)
    wait_until("drained") { File.exist?(drained_file) && record(process.pid)["drained"] }
  end

  # Starts another program: one that embeds or preloads Sidekiq, or a Rails application.
  def start_program(*command, name: "program", **options)
    Program.new(*command, app:, name:, **options).tap { |program| @workers << program }
  end

  # The command, as a health check would call it: [exit status, what it printed].
  def command(*arguments, **options)
    output, status = Open3.capture2e(COMMAND, *arguments.map(&:to_s), chdir: app, **options)
    [status.exitstatus, output]
  end

  def check(probe = "ready", *arguments) = command("check", probe, *arguments)

  def file(*names) = File.join(app, *names)
  def ready_file = file("tmp/sidekiq/ready")
  def drained_file = file("tmp/sidekiq/drained")

  # Mounts a file system of that size until the example ends.
  def mount(path, options = "size=64k")
    FileUtils.mkdir_p(path)
    system("mount", "-t", "tmpfs", "-o", options, "tmpfs", path, exception: true)
    (@mounts ||= []) << path
  end

  # `at_once` are further commands that Redis executes before those of any other client.
  def push(job, *arguments, queue: "default", at_once: [])
    payload = { class: job, args: arguments, jid: SecureRandom.hex(12), queue:, retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    redis.pipelined(["SADD", "queues", queue], ["LPUSH", "queue:#{queue}", JSON.generate(payload)], *at_once,
                    database: @database)
  end

  # Ruby for a job that notes its beginning, runs until {#release}, and notes its end.
  def held_job(name = "job", gate: "go")
    %(note "#{name} begins"; sleep 0.01 until File.exist?("#{gate}"); note "#{name} ends")
  end

  # Has a job hold the GVL until the lock that this returns is closed. /proc/locks has the locks that are waited for.
  def hold_gvl(worker)
    @lock = File.new(file("lock"), File::CREAT | File::RDWR).tap { |file| file.flock(File::LOCK_EX) }
    push("Evaluate", HOLD_GVL)
    wait_until("the job holds the GVL") { File.read("/proc/locks").match?(/-> FLOCK .* #{worker.pid} /) }
    @lock
  end

  # Pushes such a job and waits until it runs.
  def start_job(name = "job", gate: "go")
    push("Evaluate", held_job(name, gate:))
    wait_for_note("#{name} begins")
  end

  # Lets the held jobs end.
  def release(gate = "go") = FileUtils.touch(file(gate))

  # Waits until a job, or the application, has noted this.
  def wait_for_note(note) = wait_until("the note #{note}") { notes.include?(note) }

  # The ids that jobs have noted.
  def jids = notes.filter_map { |line| line[/\Ajid (.*)/, 1] }

  # A running job as people read it.
  def named_job(jid = '\h{24}', job_class = "Evaluate", queue: "default")
    "#{job_class} #{jid} \\(queue #{queue}, running for #{DURATION}\\)"
  end

  # What `check drained` answers while a process has one job: [exit status, line].
  def still_running(worker, state, queue: "default")
    job = named_job('\h{24}', '\w+', queue:)
    [1, /\Anot drained: process #{worker.pid} is #{state}, 1 job still running: #{job}\n\z/]
  end

  # Records every change of the ready file.
  def watch_ready = Watcher.new { File.exist?(ready_file) }

  # The pid of the only Sidekiq, by its record. (The name of a record that is being written begins with a dot.)
  def sidekiq = File.basename(Dir[file("tmp/sidekiq/processes/*")].first).to_i

  def queued = redis.call("LLEN", "queue:default", database: @database)
  def retries = redis.call("ZCARD", "retry", database: @database)

  # The lines that jobs have written with `note`.
  def notes = File.exist?(file("notes")) ? File.readlines(file("notes"), chomp: true) : []

  # The messages of the problems that the record of a process reports.
  def problems_of(pid) = Sandbox.messages(record(pid))

  def self.messages(record) = record["problems"].map { |problem| problem["message"] }

  # Whether the relay has not started yet, because the machine is busy.
  def self.relay_late?(record) = record.dig("signal_path", "no_relay").to_s.include?("has not started yet")

  # The record of a process on disk; nil if there is none.
  def record(pid)
    JSON.parse(File.read(file("tmp/sidekiq/processes", pid.to_s)))
  rescue Errno::ENOENT
    nil
  end
end
