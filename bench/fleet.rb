# frozen_string_literal: true

# What a look at a whole fleet costs, and telling all of it to be quiet, beside Sidekiq's own ProcessSet. Called by
# bench/fleet.
#
# The fleets are simulated, in a real Redis. Each round measures both, one right after the other and the first one by
# turns. Times are medians, ratios are to ProcessSet's time of the same round, with the middle half. How often Redis had
# to read from its client is Redis's own count: what is sent together is read at once, or in a few pieces.

require "sidekiq"
require "sidekiq/api"
require "sidekiq_lifecycle"
require_relative "../spec/support/redis_server"
require_relative "../spec/support/simulated_fleet"

ROUNDS = Integer(ARGV.fetch(0, "15"))
SIZES = [1000, 10_000].freeze
REDIS = RedisServer.new
at_exit { REDIS.stop }
Sidekiq.logger.level = Logger::WARN
if Sidekiq::VERSION.to_i < 7
  Sidekiq.redis = { url: REDIS.url }
else
  Sidekiq.configure_client { |config| config.redis = { url: REDIS.url } }
end
REGISTRY = SidekiqLifecycle::Fleet::Registry.new(Sidekiq)

# The others' first, then ours.
TASKS = {
  "status" => [-> { Sidekiq::ProcessSet.new(false).map { |process| process["busy"] } },
               -> { SidekiqLifecycle::Fleet.new.members.map(&:busy) }],
  "quiet" => [-> { Sidekiq::ProcessSet.new(false).each(&:quiet!) },
              -> { REGISTRY.signal(REGISTRY.processes.values, "TSTP") { nil } }]
}.freeze

def timed
  GC.start
  began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  yield
  Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
end

def reads
  REDIS.call("CONFIG", "RESETSTAT")
  yield
  REDIS.call("INFO", "stats")[/^total_reads_processed:(\d+)/, 1].to_i
end

def quartiles(values)
  sorted = values.sort
  [0.5, 0.25, 0.75].map { |part| sorted[((sorted.size - 1) * part).round].round(2) }
end

puts "| | ProcessSet | Redis reads | `fleet` | Redis reads | time, to ProcessSet's |", "|---|---|---|---|---|---|"
SIZES.each do |size|
  REDIS.call("FLUSHALL")
  SimulatedFleet.new(REDIS, size)
  TASKS.each do |name, tasks|
    times = Array.new(ROUNDS) do |round|
      pair = tasks.each_with_index.map { |task, index| [index, task] }
      pair.reverse! if round.odd?
      pair.to_h { |index, task| [index, timed(&task)] }.values_at(0, 1)
    end
    (theirs,), (ours,) = times.transpose.map { |values| quartiles(values) }
    ratio, low, high = quartiles(times.map { |their, our| our / their })
    their_reads, our_reads = tasks.map { |task| reads(&task) }
    costs = ["#{theirs} s", their_reads, "#{ours} s", our_reads, "#{ratio} (#{low} to #{high})"]
    puts "| #{name} of #{size} | #{costs.join(" | ")} |"
  end
end
