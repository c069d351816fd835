# frozen_string_literal: true

# What jobs cost with the flight recorder, for several numbers of threads and sizes of payloads: the gem with
# `recover_jobs`, without it, no gem, and what a fetch does that keeps a copy of each job in Redis.
#
# A round runs these one after the other. What is shown is each round's ratios to the gem without `recover_jobs`, their
# median and their middle half; and again the gem without it, which is the noise. The processor time of the process says
# more than jobs a second where the machine has other work.

require "sidekiq"
require "sidekiq_lifecycle/version"
require "tmpdir"
require_relative "../spec/support/redis_server"
require_relative "../spec/support/worker"
require_relative "counted_jobs"

class RecorderCost
  JOBS = 10_000
  CASES = [[5, 200], [5, 10_000], [25, 200], [25, 10_000]].freeze
  # The least that such a fetch costs: a command when a job begins, and one when it has ended.
  COPY = <<~RUBY
    require "sidekiq/fetch"
    Sidekiq::BasicFetch.prepend(Module.new do
      def retrieve_work
        super.tap { |work| work && Sidekiq.redis { |redis| redis.lpush("copies", work.job) } }
      end
    end)
    Sidekiq::BasicFetch::UnitOfWork.prepend(Module.new do
      def acknowledge
        Sidekiq.redis { |redis| redis.lrem("copies", 1, job) }
        super
      end
    end)
  RUBY
  WAYS = { "off" => { gem: true }, "on" => { gem: true, install: "lifecycle.recover_jobs = true" },
           "no gem" => { gem: false }, "a copy in Redis" => { gem: false, after: COPY },
           "off again" => { gem: true } }.freeze

  def initialize(rounds)
    @rounds = rounds
    @redis = RedisServer.new
  end

  def run
    CASES.each do |threads, size|
      rounds = Array.new(@rounds) do |number|
        $stderr.print "\r#{threads} threads, #{size} bytes: round #{number + 1} of #{@rounds}"
        WAYS.transform_values { |way| measure(threads, size, **way) }
      end
      $stderr.print "\r#{" " * 50}\r"
      (WAYS.keys - ["off"]).each { |way| report(threads, size, way, rounds) }
    end
  ensure
    @redis.stop
  end

  private

  def report(threads, size, way, rounds)
    times, processor = [0, 1].map do |clock|
      CountedJobs.spread(rounds.map { |round| round[way][clock] / round["off"][clock] })
    end
    puts format("%<threads>2d threads, payload %<size>5d B, %<way>-16s time %<times>s, processor time %<processor>s",
                threads:, size:, way: "#{way}:", times:, processor:)
  end

  def measure(threads, size, gem:, install: "", after: "")
    Dir.mktmpdir("bench") do |app|
      CountedJobs.push(@redis, JOBS, size:)
      worker = Worker.new(app:, redis: @redis, database: 0, after: "#{CountedJobs.source(JOBS)}#{after}", gem:,
                          install:, concurrency: threads)
      CountedJobs.wait_for(File.join(app, "elapsed"), worker)
    ensure
      worker&.kill
    end
  end
end

puts "sidekiq_lifecycle #{SidekiqLifecycle::VERSION}, Sidekiq #{Sidekiq::VERSION}, Ruby #{RUBY_VERSION}, " \
     "#{RecorderCost::JOBS} jobs; relative to the gem without recover_jobs"
RecorderCost.new(Integer(ARGV.fetch(0, "7"))).run
