# frozen_string_literal: true

# What the gem costs a Sidekiq: job throughput and boot time, with it and without it.
#
# Machines are noisy, so nothing is measured alone. A round runs three Sidekiqs one after the other: without the gem,
# with it, and without it again; what is shown is each round's ratios, their median and their middle half. The ratio
# of the two runs without the gem is the noise.

require "sidekiq"
require "sidekiq_lifecycle/version"
require "tmpdir"
require_relative "../spec/support/redis_server"
require_relative "../spec/support/worker"

class Overhead
  JOBS = 10_000
  COUNT = <<~RUBY.freeze
    class Count
      include Sidekiq::Worker
      LOCK = Mutex.new
      @done = 0
      class << self
        def done
          LOCK.synchronize do
            @begun ||= Process.clock_gettime(Process::CLOCK_MONOTONIC)
            @done += 1
            File.write("elapsed", Process.clock_gettime(Process::CLOCK_MONOTONIC) - @begun) if @done == #{JOBS}
          end
        end
      end
      def perform = self.class.done
    end
  RUBY
  STARTUP = 'File.write("started", Process.clock_gettime(Process::CLOCK_MONOTONIC))'

  def initialize(rounds)
    @rounds = rounds
    @redis = RedisServer.new
  end

  def run
    rounds = Array.new(@rounds) do |number|
      $stderr.print "\rround #{number + 1} of #{@rounds}"
      { before: measure(gem: false), with: measure(gem: true), after: measure(gem: false) }
    end
    $stderr.print "\r#{" " * 20}\r"
    %i[throughput boot].each { |what| report(what, rounds) }
  ensure
    @redis.stop
  end

  private

  def report(what, rounds)
    name = what == :boot ? "boot time" : "jobs a second"
    { "with / without" => :with, "without / without" => :after }.each do |ratio, other|
      ratios = rounds.map { |round| round[other][what] / round[:before][what] }.sort
      puts format("%<name>-14s %<ratio>-18s median %<median>.3f, half of %<size>d rounds from %<low>.3f to %<high>.3f",
                  name:, ratio:, median: at(ratios, 2), size: ratios.size, low: at(ratios, 1), high: at(ratios, 3))
    end
  end

  def measure(gem:)
    Dir.mktmpdir("bench") do |app|
      @redis.call("FLUSHALL")
      push
      spawned = Waiting.now
      worker = Worker.new(app:, redis: @redis, database: 0, after: COUNT, startup: STARTUP, gem:, concurrency: 5)
      elapsed = wait_for(File.join(app, "elapsed"), worker)
      { throughput: JOBS / elapsed, boot: wait_for(File.join(app, "started"), worker) - spawned }
    ensure
      worker&.kill
    end
  end

  def push
    payload = %({"class":"Count","args":[],"jid":"a","queue":"default","retry":false,"created_at":0,"enqueued_at":0})
    JOBS.fdiv(1000).ceil.times { @redis.call("LPUSH", "queue:default", *([payload] * 1000)) }
  end

  def wait_for(file, worker)
    worker.wait_until("#{file} is written") { File.size?(file) || worker.raise_if_ended }
    File.read(file).to_f
  end

  def at(sorted, quarter) = sorted[sorted.size * quarter / 4]
end

puts "sidekiq_lifecycle #{SidekiqLifecycle::VERSION}, Sidekiq #{Sidekiq::VERSION}, Ruby #{RUBY_VERSION}, " \
     "#{Overhead::JOBS} empty jobs, 5 threads"
Overhead.new(Integer(ARGV.fetch(0, "9"))).run
