# frozen_string_literal: true

# The window of docs/lost-jobs.md: how long it takes from LPUSH until a job is in the flight recorder of a process that
# waits for it. This program reads the recorder's file in a loop. Redis' own part is in that time, so the window is
# shorter. Measured in a process that is otherwise idle, and in one whose other threads compute.

require "sidekiq"
require "sidekiq_lifecycle/version"
require "socket"
require "tmpdir"
require_relative "../spec/support/redis_server"
require_relative "../spec/support/worker"

class Window
  # Jobs that compute, beside the one thread that fetches.
  COMPUTING = [0, 1, 4].freeze
  JOBS = <<~RUBY
    class Empty
      include Sidekiq::Worker
      def perform = nil
    end
    class Compute
      include Sidekiq::Worker
      def perform = loop { Math.sqrt(2) }
    end
  RUBY
  # The header, the size of an entry in the index, and where it has the number of its job (`src/model/recorder.rs`).
  INDEX = 4096
  ENTRY = 64
  NUMBER = 8

  def initialize(jobs)
    @jobs = jobs
    @redis = RedisServer.new
  end

  def run
    COMPUTING.each do |computing|
      times = measure(computing).sort
      median, most, longest = [0.5, 0.99, 1].map { |part| times[(part * (times.size - 1)).round] * 1000 }
      puts format("%<computing>d threads compute: median %<median>.2f ms, 99 %% below %<most>.2f ms, " \
                  "longest %<longest>.2f ms", computing:, median:, most:, longest:)
    end
  ensure
    @redis.stop
  end

  private

  def measure(computing)
    Dir.mktmpdir("bench") do |app|
      @redis.call("FLUSHALL")
      worker = Worker.new(app:, redis: @redis, database: 0, after: JOBS, concurrency: computing + 1,
                          install: "lifecycle.recover_jobs = true")
      worker.wait_until("it is ready") { worker.ready_file? || worker.raise_if_ended }
      connect(app) do
        (1..computing).each { |number| record("Compute", number) }
        Array.new(@jobs) { |number| record("Empty", computing + number + 1) }
      end
    ensure
      worker&.kill
    end
  end

  def connect(app)
    @recorder = File.open(Dir[File.join(app, "tmp/sidekiq/recorders/*-*")].first)
    @socket = TCPSocket.new("127.0.0.1", @redis.port)
    @socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, true)
    yield
  ensure
    @socket&.close
    @recorder&.close
  end

  # Pushes the job that the recorder will count as this number, when a thread waits for it.
  def record(job_class, number)
    sleep 0.01 until @redis.call("CLIENT", "LIST").match?(/ flags=b .* cmd=brpop /)
    payload = JSON.generate(class: job_class, args: [], jid: "a", queue: "default", retry: false, created_at: 0,
                            enqueued_at: 0)
    command = ["LPUSH", "queue:default", payload].map { |word| "$#{word.bytesize}\r\n#{word}\r\n" }
    pushed = now
    @socket.write("*3\r\n#{command.join}")
    nil until recorded?(number)
    taken = now - pushed
    @socket.gets
    taken
  end

  # A job has the first blocks that are free. The number stays in the index when the job has ended.
  def recorded?(number)
    index = @recorder.pread(ENTRY * (COMPUTING.max + 2), INDEX)
    (NUMBER...index.bytesize).step(ENTRY).any? { |at| index.unpack1("Q<", offset: at) == number }
  end

  def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

puts "sidekiq_lifecycle #{SidekiqLifecycle::VERSION}, Sidekiq #{Sidekiq::VERSION}, Ruby #{RUBY_VERSION}"
Window.new(Integer(ARGV.fetch(0, "1000"))).run
