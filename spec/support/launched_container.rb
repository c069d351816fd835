# frozen_string_literal: true

require "fileutils"
require "json"
require "open3"
require "securerandom"
require_relative "container"
require_relative "launch_forms"
require_relative "redis_server"
require_relative "sandbox"
require_relative "waiting"

# A container in which Sidekiq was launched in one form. One of its threads runs a job that ends a second after the
# process is no longer ready, the other a job that never ends.
#
# Its Sidekiqs leave notes in the application's directory, which this class can read.
class LaunchedContainer
  include Waiting

  DIRECTORY = "/build/containers"
  USER = 1000

  # An application that runs for this long belongs to a test that was ended.
  APPLICATION = <<~RUBY
    Thread.new { sleep 1800 and exit!(99) }

    def note(text) = File.write("notes", "\#{Process.pid} \#{text}\\n", mode: "a")

    %<before>s

    # Sidekiq's own traps write each signal to this pipe (cli.rb, `run`).
    IO.singleton_class.prepend(Module.new do
      def pipe(...)
        super.tap do |_, writer|
          writer.define_singleton_method(:puts) { |word| note("hears \#{word}") and super(word) }
        end
      end
    end)

    require "sidekiq"
    require "sidekiq_lifecycle"
    Sidekiq.configure_server do |config|
      config.redis = { url: "%<redis>s" }
      SidekiqLifecycle.install(config) { |lifecycle| %<install>s }
    end

    class Short
      include Sidekiq::Worker
      def perform(seconds = 1)
        note "short begins"
        sleep 0.02 until File.exist?("watch")
        note "short watches"
        sleep 0.02 while File.exist?("tmp/sidekiq/ready")
        sleep seconds
        note "short ends"
      end
    end

    class Long
      include Sidekiq::Worker
      def perform
        note "long begins"
        sleep
      end
    end

    # It holds the GVL for good: it waits in native code for a mutex that it has locked itself, whatever signal arrives.
    class Stuck
      include Sidekiq::Worker
      def perform
        require "fiddle"
        lock = Fiddle::Function.new(Fiddle.dlopen(nil)["pthread_mutex_lock"], [Fiddle::TYPE_VOIDP], Fiddle::TYPE_INT,
                                    need_gvl: true)
        mutex = "\0".b * 64
        note "stuck begins"
        2.times { lock.call(mutex) }
      end
    end

    class Late
      include Sidekiq::Worker
      def perform = note("late begins")
    end

    class Timed
      include Sidekiq::Worker
      def perform(seconds)
        sleep seconds
        note "ends \#{jid}"
      end
    end

    %<after>s
  RUBY

  class << self
    # Prepares what all launches share, before several of them start at once.
    def prepare
      Container.prepare
      RedisServer.shared
    end

    # Launches, waits until each thread has its job, yields the launch, and cleans up.
    #
    # @param install [String] what goes into the block of `install`
    # @param before [String] what goes to the beginning of the application
    # @param after [String] what goes to the end of the application
    # @param container [Hash] as {Container#initialize}
    def open(form, **options)
      prepared(form, **options) do |launch|
        launch.boot
        yield launch.occupy
      end
    end

    # Yields a launch that has not started, and cleans up. An error gets the whole story of the container as well.
    def prepared(form, **options)
      launch = new(form, **options)
      begin
        yield launch
      rescue StandardError, RSpec::Expectations::ExpectationNotMetError => e
        raise e, "#{e.message}\n#{launch.story}"
      end
    ensure
      launch&.clear
    end
  end

  attr_reader :form

  def initialize(form, install: "", before: form.before, after: "", **container)
    @form = form
    @options = { **form.container.to_h, **container }
    @database = Sandbox.next_database
    @app = File.join(DIRECTORY, SecureRandom.hex(6))
    FileUtils.mkdir_p(@app)
    File.write(file("app.rb"), format(APPLICATION, redis: redis.url(@database), install:, before:, after:))
    File.write(file("script"), form.script_text) if form.script
    File.write(file("passwd"), "root:*:0:0::/tmp:/bin/sh\napp:*:#{USER}:#{USER}::/tmp:/bin/sh\n") if form.container
    FileUtils.chown_R(USER, USER, @app)
    redis.call("FLUSHDB", database: @database)
  end

  def boot
    @container = Container.new(form.command, app: @app, init: form.init, **@options)
  end

  # Gives each thread its job, and waits until it has it.
  #
  # @param jobs [Array<Array>] a job's class and arguments for each thread
  # @param ready [Boolean] whether Sidekiq will be ready
  def occupy(*jobs, ready: true)
    jobs = [["Short"], ["Long"]] if jobs.empty?
    form.sidekiqs.times { jobs.each { |job| push(*job) } }
    await("each thread has its job") { noted("begins").size == form.sidekiqs * jobs.size }
    await("ready") { ready? && records.none? { |record| Sandbox.relay_late?(record) } } if ready
    FileUtils.touch(file("watch"))
    await("each short job watches") { noted("short watches").size == form.sidekiqs } if ready
    self
  end

  # Waits for something that must happen before the container ends.
  def await(what)
    wait_until(what, every: 0.05) { yield || (raise "the container ended" unless running?) }
  end

  # Starts it again after its end.
  def start = @container.start

  def running? = @container.running?
  def signal(name) = @container.signal(name)
  def stop(seconds) = @container.stop(seconds)
  def restart(seconds) = @container.restart(seconds)
  def kill = @container.kill
  def remove = @container.remove

  # Waits for its end, within the limit.
  def exit_code
    wait_until("the end of the container", every: 0.05) { !running? }
    @container.exit_code
  end

  def processes = @container.processes
  def exec(...) = @container.exec(...)
  def log = @container.log

  # @return [Array(Integer, String)] the exit code and the output of `check` in another container with the same
  #   directory
  def check_from_outside(probe)
    container = Container.new(["sidekiq-lifecycle", "check", probe], app: @app)
    [container.exit_code, container.log]
  ensure
    container&.clear
  end

  # @return [Array(Integer, String)] the exit code and the output of the doctor on the host, as root
  def examine_from_host
    container = Container.new(%w[sidekiq-lifecycle doctor], app: @app, user: 0, pid_namespace: "host",
                                                            capabilities: %w[SYS_PTRACE DAC_READ_SEARCH])
    [container.exit_code, container.log]
  ensure
    container&.clear
  end

  # @return [String] the job's id
  def push(job, *arguments)
    payload = { class: job, args: arguments, jid: SecureRandom.hex(12), queue: "default", retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    redis.pipelined(%w[SADD queues default], ["LPUSH", "queue:default", JSON.generate(payload)], database: @database)
    payload[:jid]
  end

  # @return [Array<String>] the classes of the jobs in the queue
  def queued = jobs("LRANGE", "queue:default").map { |job| job["class"] }

  # @return [Array<String>] the ids of the jobs that have ended, or wait in Redis
  def accounted_for
    noted("ends").map { |note| note[/ends (\w+)/, 1] } +
      [*jobs("LRANGE", "queue:default"), *jobs("ZRANGE", "retry")].map { |job| job["jid"] }
  end

  # @return [Array<Hash>] the jobs that killed processes had in hand, and what became of them
  def killed_jobs = jobs("LRANGE", "sidekiq_lifecycle:lost")

  # @return [Integer] how many jobs the flight recorders of running processes hold
  def in_hand
    status, = Open3.capture2(SidekiqLifecycle::CLI.path, "status", "--json", "--dir", file("tmp/sidekiq"))
    JSON.parse(status)["processes"].sum { |process| process["in_hand"].to_a.size }
  end

  # @return [Array<Hash>] the record of each Sidekiq; another process may remove one meanwhile
  def records
    Dir[file("tmp/sidekiq/processes/*")].filter_map do |path|
      JSON.parse(File.read(path))
    rescue Errno::ENOENT
      nil
    end
  end

  def ready? = File.exist?(file("tmp/sidekiq/ready"))

  # @return [Array<String>] the notes that match
  def noted(words) = notes.grep(/#{words}/)

  # @return [Array<Integer>] how many times each Sidekiq handled a signal
  def heard(signal)
    noted("begins").map(&:to_i).uniq.map { |pid| notes.count("#{pid} hears #{signal}") }
  end

  # @return [Array<Array<String>>] the signals that each Sidekiq handled, in their order
  def signals
    noted("hears").group_by(&:to_i).values.map { |heard| heard.map { |note| note[/hears (\w+)/, 1] } }.sort
  end

  # Whether each short job has ended, which means that ready was removed while it ran, and that it got the time to end.
  def short_ended? = noted("short ends").size == form.sidekiqs

  # Whether every job has ended by itself or is back in the queue.
  def nothing_lost? = short_ended? && queued.count("Long") == form.sidekiqs

  # Whether a process is suspended, as by SIGSTOP. (A process that its tracer holds has a small t.)
  def frozen? = processes.any? { |process| process.start_with?("T") }

  # @return [Array<Integer>] the pids of the relays, in the container
  def relays = records.filter_map { |record| record.dig("signal_path", "relay") }.uniq

  # Sends a signal from inside, as the container's own user.
  def send_inside(signal, *pids)
    code, output = exec("kill", "-#{signal}", *pids.map(&:to_s))
    raise "kill: #{output}" unless code.zero?
  end

  # @return [Array<String>] the processes that have ended and were not reaped
  def zombies
    processes.grep(/\AZ/)
  rescue RuntimeError
    raise if running?

    []
  end

  # Everything known about the container, for an error message.
  def story
    parts = { "notes" => notes.join("\n"), "queued" => queued.join(" ") }
    records.each { |record| parts["record #{record["pid"]}"] = JSON.generate(record) }
    parts.merge!(seen_of_container) if @container
    "#{form}: #{form.command.inspect}\n" + parts.map { |name, text| "--- #{name}\n#{text}\n" }.join
  end

  def clear
    @container&.clear
    FileUtils.rm_rf(@app)
  end

  private

  # As far as the container still exists.
  def seen_of_container
    seen = { "log" => log }
    seen["processes"] = processes.join("\n") if running?
    seen
  rescue RuntimeError => e
    { **seen.to_h, "Docker" => e.message }
  end

  def jobs(command, key) = redis.call(command, key, 0, -1, database: @database).map { |job| JSON.parse(job) }
  def redis = RedisServer.shared
  def file(name) = File.join(@app, name)
  def notes = File.exist?(file("notes")) ? File.readlines(file("notes"), chomp: true) : []
end
