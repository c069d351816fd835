# frozen_string_literal: true

require "open3"

# The gem's own command `fleet`, as a user calls it.
module FleetCommand
  # [exit status, standard output, standard error]
  def fleet(*arguments, environment: {}, chdir: app)
    out, err, status = Open3.capture3(surroundings.merge(environment), *line(arguments), chdir:)
    [status.exitstatus, out, err]
  end

  # The same in the background, its output in a file.
  def fleet_in_background(*arguments, environment: {})
    start_program(*line(arguments), name: "fleet", environment: surroundings.merge(environment))
  end

  # Its JSON.
  def fleet_json(*arguments, **options) = JSON.parse(fleet(*arguments, "--json", **options)[1])

  # Adds a process that was killed a while ago: Sidekiq still lists it, and Redis has forgotten everything else.
  def add_stale(identity) = redis.call("SADD", "processes", identity, database: @database)

  # Sidekiq's own set of its processes.
  def listed = redis.call("SMEMBERS", "processes", database: @database)

  # Sidekiq's name for a process; nil until it is listed.
  def identity_of(worker) = listed.find { |identity| identity.include?(":#{worker.pid}:") }

  # What the gem publishes beside Sidekiq's own heartbeat. To wait for it is cheaper than calling the command.
  def published(worker)
    JSON.parse(redis.call("GET", "#{identity_of(worker)}:lifecycle", database: @database) || "{}")
  end

  private

  def line(arguments) = ["sidekiq-lifecycle", "fleet", *arguments.map(&:to_s)]
  def surroundings = { "REDIS_URL" => redis.url(@database), "NO_COLOR" => "1", "SUDO_USER" => nil }
end
