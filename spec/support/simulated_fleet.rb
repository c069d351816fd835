# frozen_string_literal: true

require "json"

# The Redis keys of a large fleet, without the processes: what Sidekiq's majors write in turn (`launcher.rb`, `❤` and
# `to_data`), and beside that what the gem publishes, for all but every fifth process.
class SimulatedFleet
  # Longer than Sidekiq's 60 s, because no process sends heartbeats here, and none may get stale on a slow machine.
  EXPIRY = 3600
  VERSIONS = ["6.4.1", "7.3.2", "8.1.7"].freeze

  attr_reader :identities

  # @param redis [RedisServer]
  def initialize(redis, size, database: 0)
    @redis = redis
    @database = database
    @identities = Array.new(size) { |number| "worker-#{number.to_s.rjust(5, "0")}:#{number + 1}:#{number.to_s(16)}" }
    beat
  end

  # Writes one heartbeat of each process.
  def beat(quiet: false, drained: false, busy: 0)
    @beat = [Time.now.to_f, @beat.to_f + 1].max
    @redis.pipelined(*identities.each_with_index.flat_map do |identity, number|
      [["SADD", "processes", identity],
       ["HSET", identity, *sidekiqs_fields(identity, number, quiet, busy).flatten], ["EXPIRE", identity, EXPIRY],
       *([["SET", "#{identity}:lifecycle", published(number, quiet, drained), "EX", EXPIRY]] if gem?(number))]
    end, database: @database)
  end

  # The signals sent to each, the last one first.
  def sent_signals
    @redis.pipelined(*identities.map { |identity| ["LRANGE", signals(identity), 0, -1] }, database: @database)
  end

  # In how many seconds the signals of each expire.
  def signals_expire_in
    @redis.pipelined(*identities.map { |identity| ["TTL", signals(identity)] }, database: @database)
  end

  # @return [Integer] how many of them have the gem
  def with_gem = identities.each_index.count { |number| gem?(number) }

  private

  def signals(identity) = "#{identity}-signals"
  def gem?(number) = number % 5 != 4
  def version(number) = VERSIONS[number % VERSIONS.size]

  def sidekiqs_fields(identity, number, quiet, busy)
    fields = { "info" => JSON.generate(info(identity, number)), "busy" => busy, "beat" => @beat, "rtt_us" => 150,
               "quiet" => quiet, "rss" => 123_456 }
    version(number).start_with?("8") ? fields.merge("concurrency" => 10) : fields
  end

  def info(identity, number)
    hostname, pid = identity.split(":")
    info = { hostname:, started_at: 1_700_000_000.0, pid: pid.to_i, tag: "shop", queues: %w[default mailers],
             labels: [], identity: }
    case version(number)
    when /^6/ then info.merge(concurrency: 10)
    when /^7/ then info.merge(concurrency: 10, weights: [{ default: 0, mailers: 0 }], version: version(number),
                              embedded: false)
    else info.merge(capsules: { default: { concurrency: 10, mode: "strict", weights: { default: 0, mailers: 0 } } },
                    weights: [{ default: 0, mailers: 0 }], version: version(number), embedded: false)
    end
  end

  def published(number, quiet, drained)
    JSON.generate(schema: 1, version: "0.1.0", sidekiq: version(number), state: quiet ? "quiet" : "running",
                  since: "2026-01-02T03:04:05.678Z", ready: !quiet, drained:,
                  drained_at: ("2026-01-02T03:04:05.678Z" if drained), interrupted: 0, signal_path: "arrives")
  end
end
