# frozen_string_literal: true

# What the gem costs a Sidekiq: job throughput, boot time and the time of a heartbeat, without it, with it, and with all
# of its settings on.
#
# Machines are noisy, so nothing is measured alone. A round runs four Sidekiqs one after the other: without the gem,
# with it, with everything on, and without it again. What is shown is each round's ratios, their median and their middle
# half. The ratio of the two runs without the gem is the noise.

require "sidekiq"
require "sidekiq_lifecycle/version"
require "tmpdir"
require_relative "../spec/support/redis_server"
require_relative "../spec/support/worker"
require_relative "counted_jobs"

class Overhead
  JOBS = 10_000
  HEARTBEATS = 100
  # Every setting that costs something while jobs run.
  EVERYTHING = 'lifecycle.http = "127.0.0.1:7433"; lifecycle.recover_jobs = true; lifecycle.exit_when_idle = 3600'
  # The last job sends heartbeats.
  BEAT = <<~RUBY.freeze
    Thread.new do
      launcher = Sidekiq::CLI.instance.launcher
      begun = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      #{HEARTBEATS}.times { launcher.send(:❤) }
      File.write("heartbeats", Process.clock_gettime(Process::CLOCK_MONOTONIC) - begun)
    end
  RUBY
  NAMES = { throughput: "jobs a second", processor: "processor time", boot: "boot time",
            heartbeat: "heartbeat" }.freeze
  STARTUP = 'File.write("started", Process.clock_gettime(Process::CLOCK_MONOTONIC))'

  def initialize(rounds)
    @rounds = rounds
    @redis = RedisServer.new
  end

  def run
    rounds = Array.new(@rounds) do |number|
      $stderr.print "\rround #{number + 1} of #{@rounds}"
      { before: measure(gem: false), with: measure(gem: true), all: measure(gem: true, install: EVERYTHING),
        after: measure(gem: false) }
    end
    $stderr.print "\r#{" " * 20}\r"
    NAMES.each_key { |what| report(what, rounds) }
  ensure
    @redis.stop
  end

  private

  def report(what, rounds)
    name = NAMES.fetch(what)
    { "with / without" => :with, "everything / without" => :all, "without / without" => :after }.each do |ratio, other|
      ratios = rounds.map { |round| round[other][what] / round[:before][what] }
      puts format("%<name>-14s %<ratio>-20s median %<spread>s", name:, ratio:, spread: CountedJobs.spread(ratios))
    end
  end

  def measure(gem:, install: "")
    Dir.mktmpdir("bench") do |app|
      CountedJobs.push(@redis, JOBS)
      spawned = Waiting.now
      worker = Worker.new(app:, redis: @redis, database: 0, after: CountedJobs.source(JOBS, finally: BEAT),
                          startup: STARTUP, gem:, install:, concurrency: 5)
      elapsed, started, heartbeat = %w[elapsed started heartbeats].map do |name|
        CountedJobs.wait_for(File.join(app, name), worker)
      end
      { throughput: JOBS / elapsed.first, processor: elapsed.last, boot: started.first - spawned,
        heartbeat: heartbeat.first }
    ensure
      worker&.kill
    end
  end
end

puts "sidekiq_lifecycle #{SidekiqLifecycle::VERSION}, Sidekiq #{Sidekiq::VERSION}, Ruby #{RUBY_VERSION}, " \
     "#{Overhead::JOBS} empty jobs, 5 threads"
Overhead.new(Integer(ARGV.fetch(0, "9"))).run
