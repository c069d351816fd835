# frozen_string_literal: true

require "json"
require "time"
require "tmpdir"
require_relative "timeline"
require_relative "waiting"

# A script replaces a worker of the shop by another, while jobs come in all the time. The result comes from the workers'
# records, Docker, and the jobs' notes.
class Replacement
  include Waiting

  # As long as a large Rails application may take, in addition to what Sidekiq and Ruby need.
  BOOT_SECONDS = 5
  PAUSE = 0.2
  # Most jobs are short; every tenth still runs when its worker is stopped.
  LENGTHS = [3, *Array.new(9, 0.1)].freeze
  WORKERS = %w[old new].freeze
  # So that a slow machine fails no health check.
  PATIENT = %w[--health-start-period 10m --health-timeout 1m].freeze

  # @return [Timeline]
  attr_reader :timeline

  # @param script [String] for sh; its arguments are the old container's name, the new one's, and those of `docker run`
  def initialize(shop, title, script)
    @shop = shop
    @title = title
    @script = script
    @database = Sandbox.next_database
    @names = WORKERS.to_h { |worker| [worker, shop.name("#{worker}-#{@database}")] }
    @pushed = {}
  end

  # @return [Array<String>] the old container's name, and the new one's
  def names = @names.values

  def run
    old, new = names
    @shop.docker("run", "-d", "--name", old, *words("old"))
    @shop.wait_for_health(old, "healthy")
    with_jobs do
      wait_for_orders("old")
      @begun = now
      code, said = @shop.try("sh", "-c", @script, "replace-worker", old, new, *words("new"))
      raise "the script failed: #{said}" unless code.zero?

      @healthy = healthy(new)
      wait_for_orders("new")
      enough = @pushed.size + 15
      wait_until("more orders come") { @pushed.size >= enough }
    end
    @ended = now
    @timeline = tell
    self
  end

  # @return [Array<Integer>] the orders that have not begun and ended exactly once
  def lost_or_doubled
    told = @shop.notes(@database).group_by { |note| note[:number] }
    @pushed.keys.reject { |number| told.fetch(number, []).map { |note| note[:what] }.sort == %w[began ended] }
  end

  # What `fleet timeline` shows, once the heartbeats of both workers have told it that one has stopped and one is ready.
  # @return [Hash]
  def fleet_timeline
    wait_until("both are in the timeline", every: 0.5) do
      timeline = JSON.parse(show_fleet_timeline("--json"))
      timeline if timeline["processes"].map { |one| one["states"].last["state"] } == %w[stopping ready]
    end
  end

  # Writes its picture, from shortly before the script began.
  def draw_fleet_timeline(path)
    fleet_timeline
    show_fleet_timeline("--since", "#{(now - @begun + 5).ceil}s", "--svg", path)
  end

  private

  def now = Time.now.to_f

  def show_fleet_timeline(*options)
    environment = { "REDIS_URL" => RedisServer.shared.url(@database), "NO_COLOR" => "1" }
    code, said = @shop.try(environment, "sidekiq-lifecycle", "fleet", "timeline", *options, chdir: Dir.tmpdir)
    code.zero? ? said : raise(said)
  end

  # Sidekiq uses $DYNO as the hostname.
  def words(worker)
    environment = @shop.options(@database, WORKER: worker, DYNO: worker, BOOT_SECONDS:)
    checks = PATIENT unless @script.include?("--no-healthcheck") && worker == "new"
    ["--stop-timeout", "60", *checks, *environment, @shop.worker_image]
  end

  # Enough orders to be visible in the picture.
  def wait_for_orders(worker)
    wait_until("orders of the #{worker} one", every: 0.2) { ended.count { |note| note[:worker] == worker } >= 20 }
  end

  def ended = @shop.notes(@database).select { |note| note[:what] == "ended" }

  def with_jobs
    more = true
    pushing = Thread.new do
      (1..).each do |number|
        break unless more

        @pushed[number] = now
        @shop.push(@database, number, LENGTHS[number % LENGTHS.size])
        sleep PAUSE
      end
    end
    yield
    more = false
    pushing.join
    wait_until("every order has ended", every: 0.2) { (@pushed.keys - ended.map { |note| note[:number] }).empty? }
  ensure
    pushing&.kill
  end

  # When a health check first succeeded; nil without health checks. (Docker keeps the last five.)
  def healthy(name)
    looks = @shop.docker("inspect", "-f", "{{if .State.Health}}{{json .State.Health.Log}}{{end}}", name).strip
    look = JSON.parse(looks).find { |one| one["ExitCode"].zero? } unless looks.empty?
    look && Time.parse(look["End"]).to_f
  end

  def tell
    workers = @names.map { |worker, name| worker(worker, name) }
    Timeline.new(title: @title, workers:, jobs:, last: @ended - @begun,
                 marks: { "deploy begins" => 0.0, "new one is healthy" => (@healthy - @begun if @healthy) }.compact)
  end

  def worker(worker, name)
    timings = @shop.record(name)["timings"].transform_values { |time| Time.parse(time).to_f - @begun }
    started, finished = %w[StartedAt FinishedAt].map do |what|
      Time.parse(@shop.inspect_value(name, ".State.#{what}")).to_f - @begun
    end
    Timeline::Worker.new(name: worker, started:, ready: timings["running"], stopping: timings["stopping"],
                         stopped: (finished if timings["stopping"]))
  end

  def jobs
    told = @shop.notes(@database).group_by { |note| note[:number] }
    @pushed.map do |number, pushed|
      began = told[number].find { |note| note[:what] == "began" }
      Timeline::Job.new(pushed: pushed - @begun, began: began[:at] - @begun, worker: began[:worker])
    end
  end
end
