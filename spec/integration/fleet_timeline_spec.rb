# frozen_string_literal: true

require "rexml/document"
require "sidekiq_lifecycle/fleet"
require "sidekiq_lifecycle/fleet/timeline_svg"

RSpec.describe "the timeline of the fleet" do
  include FleetCommand

  # A Sidekiq with frequent heartbeats. The timeline knows it as ready.
  def start_seen(**options)
    worker = start(**options, after: "#{QUICK_HEARTBEAT}#{KEEP_STALE}")
    wait_until("the timeline knows it as ready") { worker.raise_if_ended || published(worker)["ready"] }
    worker
  end

  def timeline = fleet_json("timeline")
  def lane(worker) = timeline.fetch("processes").find { |one| one["process"].include?(":#{worker.pid}:") }
  def states(worker) = lane(worker)["states"].map { |one| one["state"] }
  def stream = redis.call("XRANGE", SidekiqLifecycle::Transitions::STREAM, "-", "+", database: @database)

  def stop(worker)
    worker.signal(:TERM)
    worker.exit_code
  end

  it "shows a deploy without a moment in which no worker was ready" do
    blue = start_seen
    green = start_seen(name: "green")
    stop(blue)
    expect(states(blue)).to eq(%w[booting ready stopping])
    expect(lane(blue)).to include("ending" => "stopped", "interrupted" => 0)
    expect(states(green)).to eq(%w[booting ready])
    expect(timeline).to include("gaps" => [], "doubtful" => false, "longest_gap" => nil)

    code, out, = fleet("timeline", "--svg", "deploy.svg")
    expect(code).to eq(0)
    expect(out).to match(/:#{blue.pid} .*[=s]/).and include("\na worker was ready at every moment\n")
    expect(REXML::Document.new(File.read(file("deploy.svg"))).root.name).to eq("svg")
  end

  it "shows how long no worker was ready, and which jobs were interrupted" do
    blue = start_seen(timeout: 1)
    start_job
    stop(blue)
    start_seen(name: "green")
    gap, = timeline["gaps"]
    expect(gap).to include("lasts" => false, "seconds" => a_value > 0)
    expect(lane(blue)).to include("interrupted" => 1, "lost" => 0)
    expect(lane(blue)["interrupted_jobs"]).to match([a_hash_including("class" => "Evaluate", "queue" => "default")])
    expect(fleet("timeline")[1])
      .to match(/^longest moment without a ready worker: .*\n.*\n1 job interrupted: Evaluate /)
  end

  it "knows since when a process is ready that has said nothing for long" do
    worker = start_seen
    since = lane(worker)["states"].last["from"]
    redis.call("DEL", SidekiqLifecycle::Transitions::STREAM, database: @database)
    expect(lane(worker)["states"].last).to include("state" => "ready", "from" => since)
  end

  it "knows of a killed process when it was alive for the last time" do
    worker = start_seen
    identity = identity_of(worker)
    worker.signal(:KILL)
    worker.exit_code
    # Redis forgets it a minute after its last heartbeat.
    redis.call("DEL", identity, database: @database)
    beat = redis.call("ZSCORE", SidekiqLifecycle::Transitions::BEATS, identity, database: @database).to_f
    expect(lane(worker)["ending"]).to eq("silent")
    expect(Time.iso8601(lane(worker)["states"].last["to"]).to_f).to be_within(0.01).of(beat)
    expect(fleet("timeline")[1]).to include("fell silent, as if killed: ")
  end

  it "finds a killed process that had said nothing for long" do
    at = Time.now - 3600
    life = SidekiqLifecycle::Transitions.dump([[:booting, 1000], [:ready, 2000]])
    redis.call("XADD", SidekiqLifecycle::Transitions::STREAM, "1000-0", "p", "a:1:f", "t", life, database: @database)
    redis.call("ZADD", SidekiqLifecycle::Transitions::BEATS, at.to_f, "a:1:f", database: @database)
    lane, = fleet_json("timeline", "--since", "2h")["processes"]
    expect(lane).to include("process" => "a:1:f", "ending" => "silent")
    expect(lane["states"].map { |one| one["state"] }).to eq(["ready"])
    expect(fleet("timeline", "--since", "30m")).to eq([1, "", "sidekiq-lifecycle: no Sidekiq was seen in this time\n"])
  end

  it "knows how a process ended, also if a heartbeat on its way came later" do
    at = ((Time.now.to_f - 60) * 1000).to_i
    [[[:ready, at], [:ended, at + 5000]], [[:ready, at]]].each do |life|
      redis.call("XADD", SidekiqLifecycle::Transitions::STREAM, "*", "p", "a:1:f", "t",
                 SidekiqLifecycle::Transitions.dump(life), database: @database)
    end
    expect(timeline["processes"].map { |one| one["ending"] }).to eq(["stopped"])
  end

  it "writes each change once, and nothing between" do
    worker = start_seen
    count = stream.size
    beat = -> { redis.call("ZSCORE", SidekiqLifecycle::Transitions::BEATS, identity_of(worker), database: @database) }
    before = beat.call
    wait_until("more heartbeats") { beat.call.to_f > before.to_f + 0.5 }
    expect(stream.size).to eq(count)
    stop(worker)
    written = SidekiqLifecycle::Transitions.load(stream.last.last[3])
    expect(written.map(&:first) - [:drained]).to eq(%i[booting ready stopping ended])
    expect(redis.call("ZCARD", SidekiqLifecycle::Transitions::BEATS, database: @database)).to eq(0)
  end

  it "goes on without a timeline where Redis has no streams" do
    refusal = "Redis refuses the timeline of this process, which needs Redis 5"
    own_redis.call("ACL", "SETUSER", "default", "-xadd", "-xrange")
    worker = start(after: QUICK_HEARTBEAT)
    wait_until("it says so") { worker.raise_if_ended || worker.log.include?(refusal) }
    wait_until("its status is published all the same") do
      fleet_json("status")["processes"]&.first&.fetch("ready")
    end
    expect(fleet("timeline")).to match([1, "", /Redis has no timeline, which needs Redis 5 or later: /])
    # What else it has for the process is still read.
    expect(fleet("quiet", "--then-stop", "--wait").first).to eq(0)
    expect(worker.exit_code).to eq(0)
    expect(worker.log.scan(refusal).size).to eq(1)
  end

  let(:hour) { 3600 }

  # The lives of 10,000 processes that start one after the other, as they write them; a day later they stop.
  def write_deploy(config, start, nonce, ends:)
    status = Struct.new(:state, :timings, :ready?)
    10_000.times.each_slice(1000) do |numbers|
      config.redis do |client|
        client.pipelined do |pipeline|
          numbers.each do |number|
            at = start + (number / 10.0)
            life = { booting: at, running: at + 5 }
            write = writer(pipeline, "worker-7f9c8d5b6-#{number}:1:#{nonce}")
            write.call(status.new(:running, life, true), at + 9, false)
            stop = at + (24 * hour)
            write.call(status.new(:stopping, { **life, stopping: stop }, false), stop, true) if ends
          end
        end
      end
    end
  end

  def writer(pipeline, identity)
    transitions = SidekiqLifecycle::Transitions.new
    lambda do |status, now, last|
      news = transitions.news(identity, status, now:, last:)
      transitions.write(pipeline, news)
      transitions.written(news)
    end
  end

  it "takes less than 10 MB for 10,000 processes and a week of deploys, and draws them" do
    config = defined?(Sidekiq::Config) ? Sidekiq::Config.new : Sidekiq
    config.redis = { url: redis.url(@database) }
    7.downto(1) { |days| write_deploy(config, Time.now - (days * 24 * hour), "#{days}#{"f" * 11}", ends: days > 1) }
    keys = [SidekiqLifecycle::Transitions::STREAM, SidekiqLifecycle::Transitions::BEATS]
    sizes = keys.map { |key| redis.call("MEMORY", "USAGE", key, "SAMPLES", 0, database: @database) }
    expect(sizes.sum).to be < 10_000_000
    began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    timeline = SidekiqLifecycle::Fleet.new(config).timeline(since: 7 * 24 * hour)
    picture = SidekiqLifecycle::Fleet::TimelineSvg.new(timeline).to_s
    RSpec.configuration.reporter.message(
      "#{sizes.inspect} bytes, #{timeline.lanes.size} lanes, #{picture.size} bytes of SVG in " \
      "#{(Process.clock_gettime(Process::CLOCK_MONOTONIC) - began).round(2)} s"
    )
    expect(timeline.lanes.size).to be >= 20_000
    expect(picture.size).to be < 300_000
  end
end
