# frozen_string_literal: true

require "json"
require "uri"
require "yaml"
require_relative "container"
require_relative "debian_image"
require_relative "redis_server"

# The shop's compose.sidekiq.yml as a project of Docker Compose. An override adds Redis, the images of this machine, and
# a service that depends on the worker.
class ComposeProject
  REDIS_PORT = 6379

  # Yields a project, and removes it afterwards.
  def self.open(shop)
    project = new(shop)
    before = builders_steps
    yield project
  ensure
    project&.compose("down", "--volumes", "--timeout", "1")
    (builders_steps - before).each { |id| prune(id) } if before
  end

  # The intermediate steps in the cache of Compose's builder, which differs from that of `docker build` here.
  def self.builders_steps = JSON.parse(Container.call("GET", "/system/df"))["BuildCache"].to_a.map { |one| one["ID"] }

  def self.prune(id)
    Container.call("POST", "/build/prune?all=1&filters=#{URI.encode_www_form_component(JSON.generate(id: [id]))}")
  end
  private_class_method :builders_steps, :prune

  def initialize(shop)
    @shop = shop
    # If Docker runs without a bridge, containers can only reach each other through the host.
    @bridge = Container.call("GET", "/networks").include?('"Driver":"bridge"')
    File.write(File.join(shop.root, "override.yml"), YAML.dump("services" => services))
  end

  # Calls `docker compose` as the page does.
  # @return [Array(Integer, String)] the exit code, and what it printed
  def compose(*words)
    @shop.try({ "IMAGE" => @shop.image, "COMPOSE_PROJECT_NAME" => @shop.image, **redis_url }, "docker", "compose",
              "-f", "compose.sidekiq.yml", "-f", "override.yml", *words, chdir: @shop.root)
  end

  # @return [String] the name of a service's container
  def container(service) = compose("ps", "-aq", service).last.strip

  # Calls Redis from inside its container.
  def redis(*words) = compose("exec", "-T", "redis", "redis-cli", "-p", port.to_s, *words).last.chomp

  private

  def bridge? = @bridge
  def port = bridge? ? REDIS_PORT : (@port ||= RedisServer.free_port)
  def redis_url = bridge? ? {} : { "REDIS_URL" => "redis://127.0.0.1:#{port}/0" }

  def services
    redis = { "image" => DebianImage.prepare,
              "command" => ["redis-server", "--protected-mode", "no", "--save", "", "--port", port.to_s] }
    # A slow machine fails no health check.
    patient = { "timeout" => "60s", "start_period" => "10m" }
    redis["healthcheck"] = patient
    redis["healthcheck"] = { "test" => ["CMD", "redis-cli", "-p", port.to_s, "ping"], **patient } unless bridge?
    own = { "redis" => redis, "sidekiq" => { "image" => "#{@shop.image}-compose", "build" => { "network" => "none" },
                                             "healthcheck" => patient },
            "web" => { "image" => DebianImage.prepare, "command" => %w[sleep infinity], "init" => true,
                       "depends_on" => { "sidekiq" => { "condition" => "service_healthy" } } } }
    bridge? ? own : own.transform_values { |service| service.merge("network_mode" => "host") }
  end
end
