# frozen_string_literal: true

require "fileutils"
require "json"
require "securerandom"
require_relative "container"
require_relative "forms"
require_relative "redis_server"
require_relative "sandbox"
require_relative "waiting"

# A container in which Sidekiq was launched in one form. One of its threads is busy with a job that ends a second
# after readiness is gone, the other with one that outlasts any shutdown.
#
# Its Sidekiqs leave notes in the application's directory, which is ours as well.
class Launch
  include Waiting

  DIRECTORY = "/build/containers"
  USER = 1000

  # Nobody waits for an application this long: it belongs to a test that was ended.
  APPLICATION = <<~RUBY
    Thread.new { sleep 300 and exit!(99) }

    def note(text) = File.write("notes", "\#{Process.pid} \#{text}\\n", mode: "a")

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
      def perform
        note "short begins"
        sleep 0.02 until File.exist?("watch")
        note "short watches"
        sleep 0.02 while File.exist?("tmp/sidekiq/ready")
        sleep 1
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

    class Late
      include Sidekiq::Worker
      def perform = note("late begins")
    end
  RUBY

  @databases = Mutex.new

  class << self
    # What launches share, to be there before several are made at once.
    def prepare
      Container.prepare
      RedisServer.shared
    end

    def next_database = @databases.synchronize { Sandbox.next_database }

    # Launches, waits until each thread has its job, hands the launch to the block, and clears up. With what went
    # wrong everything is told that there is to know.
    #
    # @param install [String] what goes into the block of `install`
    def open(form, install: "")
      launch = new(form, install)
      begin
        yield launch.begin
      rescue StandardError => e
        raise "#{e.message}\n#{launch.story}"
      end
    ensure
      launch&.clear
    end
  end

  attr_reader :form

  def initialize(form, install)
    @form = form
    @database = Launch.next_database
    @app = File.join(DIRECTORY, SecureRandom.hex(6))
    FileUtils.mkdir_p(@app)
    File.write(file("app.rb"), format(APPLICATION, redis: redis.url(@database), install:))
    File.write(file("script"), Form::SCRIPTS.fetch(form.script)) if form.script
    FileUtils.chown_R(USER, USER, @app)
  end

  def begin
    redis.call("FLUSHDB", database: @database)
    form.sidekiqs.times { %w[Short Long].each { |job| push(job) } }
    @container = Container.new(form.command, app: @app, init: form.init)
    await("each thread has its job") { noted("begins").size == form.sidekiqs * 2 }
    await("ready") { ready? }
    FileUtils.touch(file("watch"))
    await("each short job watches") { noted("short watches").size == form.sidekiqs }
    self
  end

  # Waits for what must come before the container ends.
  def await(what)
    wait_until(what) { yield || (raise "the container ended" unless running?) }
  end

  def running? = @container.running?
  def signal(name) = @container.signal(name)
  def stop(seconds) = @container.stop(seconds)
  def exit_code = @container.exit_code

  def push(job)
    payload = { class: job, args: [], jid: SecureRandom.hex(12), queue: "default", retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    redis.pipelined(%w[SADD queues default], ["LPUSH", "queue:default", JSON.generate(payload)], database: @database)
  end

  # @return [Array<String>] the classes of the jobs in the queue
  def queued
    redis.call("LRANGE", "queue:default", 0, -1, database: @database).map { |payload| JSON.parse(payload)["class"] }
  end

  def ready? = File.exist?(file("tmp/sidekiq/ready"))

  # @return [Array<String>] what was noted with these words
  def noted(words) = notes.grep(/#{words}/)

  # @return [Array<Integer>] how many times each Sidekiq heard a signal
  def heard(signal)
    noted("begins").map(&:to_i).uniq.map { |pid| notes.count("#{pid} hears #{signal}") }
  end

  # Whether each short job has ended: readiness was gone while it ran, and it was given time to work on.
  def short_ended? = noted("short ends").size == form.sidekiqs

  # Whether every job has ended by itself or is back in the queue.
  def nothing_lost? = short_ended? && queued.count("Long") == form.sidekiqs

  # Whether a process is stopped, as by SIGSTOP. (One that its tracer holds shows a small t.)
  def frozen? = @container.processes.any? { |process| process.start_with?("T") }

  # All there is to know.
  def story
    parts = { "notes" => notes.join("\n"), "queued" => queued.join(" "), "log" => @container&.log }
    Dir[file("tmp/sidekiq/processes/*")].each { |record| parts["record #{File.basename(record)}"] = File.read(record) }
    parts["processes"] = @container.processes.join("\n") if @container&.running?
    "#{form}: #{form.command.inspect}\n" + parts.map { |name, text| "--- #{name}\n#{text}\n" }.join
  end

  def clear
    @container&.remove
    FileUtils.rm_rf(@app)
  end

  private

  def redis = RedisServer.shared
  def file(name) = File.join(@app, name)
  def notes = File.exist?(file("notes")) ? File.readlines(file("notes"), chomp: true) : []
end
