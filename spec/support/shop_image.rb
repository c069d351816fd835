# frozen_string_literal: true

require "fileutils"
require "json"
require "open3"
require "rubygems/package"
require "securerandom"
require "stringio"
require "tmpdir"
require "yaml"
require_relative "debian_image"
require_relative "redis_server"
require_relative "waiting"

# The application of examples/shop in Docker: an image of the application, and on top of it Dockerfile.sidekiq as
# `generate` writes it, both built and run with Docker's own commands.
class ShopImage
  include Waiting

  # As in many applications: an ordinary user, a lock file, and another stop signal than Sidekiq's, which some images
  # set. (The build needs no network; a Docker without a bridge has none.)
  DOCKERFILE = <<~DOCKERFILE
    FROM %<debian>s
    LABEL sidekiq_lifecycle.shop=%<id>s
    ENV GEM_HOME=/gems LANG=C.UTF-8
    COPY gems /gems
    COPY app /app
    WORKDIR /app
    RUN bundle install --local && mkdir tmp && chown 1000:1000 tmp
    USER 1000:1000
    STOPSIGNAL SIGQUIT
  DOCKERFILE

  # Added to app.rb: a boot that may take as long as one of Rails, and jobs that note their beginning and end.
  JOBS = <<~RUBY
    # If Redis answers late, redis-client sends a command a second time, and Redis carries out both.
    Sidekiq.configure_server { |config| config.redis = { url: ENV.fetch("REDIS_URL"), timeout: 60 } }

    sleep ENV.fetch("BOOT_SECONDS", "0").to_f
    sleep 0.05 until File.exist?(ENV.fetch("BOOT_UNTIL", "/"))

    # Notes in Redis when and where it ran, and in a file of its container that it has begun.
    class Order
      include Sidekiq::Job

      def perform(number, seconds)
        note(:began, number)
        File.write("/tmp/began", "")
        sleep seconds
        note(:ended, number)
      end

      def note(what, number)
        note = { what:, number:, at: Time.now.to_f, worker: ENV.fetch("WORKER", nil) }
        Sidekiq.redis { |redis| redis.call("RPUSH", "notes", JSON.generate(note)) }
      end
    end
  RUBY

  # @return [String, nil] why it cannot be built here
  def self.missing
    "it wants a Debian with Docker's own commands, which is that of Sidekiq 7" unless File.exist?("/usr/bin/docker")
  end

  # The one that all examples share, because building it takes a while.
  def self.shared = @shared ||= new
  def self.clear_shared = @shared&.clear

  # @return [String] the application's own image
  attr_reader :image
  # @return [String] the application's root, with what `generate compose` wrote
  attr_reader :root

  def initialize
    @id = SecureRandom.hex(4)
    @directory = Dir.mktmpdir("shop")
    @root = File.join(@directory, "app")
    @image = "sidekiq_lifecycle-shop-#{@id}"
    write
    build(@image, @directory)
  end

  # @return [String] the worker's image on top of it, which is built at the first call
  def worker_image
    @worker_image ||= "#{image}-sidekiq".tap do |name|
      build(name, root, "-f", File.join(root, "Dockerfile.sidekiq"), "--build-arg", "IMAGE=#{image}")
    end
  end

  # @return [Hash] what `generate` writes for a platform in a YAML file
  def generated(target, file)
    code, out = try("sidekiq-lifecycle", "generate", target, "--force", "--root", root)
    raise out unless code.zero?

    YAML.load_file(File.join(root, file))
  end

  # Calls Docker's own command.
  # @return [String] what it printed
  # @raise [RuntimeError] if it did not end with 0
  def docker(*words, **options)
    code, out = try("docker", *words, **options)
    raise "docker #{words.join(" ")}: #{code}\n#{out}" unless code.zero?

    out
  end

  # Calls any command.
  # @return [Array(Integer, String)] its exit code, and what it printed
  def try(*command, **options)
    out, status = Open3.capture2e(*command, **options)
    [status.exitstatus, out]
  end

  # @return [String] a name for a container, which {#clear} removes
  def name(word) = "#{@image}-#{word}"

  # @return [Array<String>] the options of `docker run` for this environment, with Redis on the host
  def options(database, **environment)
    variables = { REDIS_URL: RedisServer.shared.url(database), **environment }
    ["--network", "host", *variables.flat_map { |key, value| ["-e", "#{key}=#{value}"] }]
  end

  # Starts a worker as docs/deploy/docker.md does.
  # @return [String] its name
  def run(word, database, *more, **environment)
    name(word).tap do |name|
      docker("run", "-d", "--name", name, *options(database, **environment), *more, worker_image)
    end
  end

  # A value from `docker inspect` of a container or an image.
  def inspect_value(name, format) = docker("inspect", "-f", "{{#{format}}}", name).strip

  def health(name) = inspect_value(name, ".State.Health.Status")

  def wait_for_health(name, wanted, limit: LIMIT)
    wait_until("#{name} is #{wanted}", every: 0.2, limit:) { health(name) == wanted }
  rescue RuntimeError => e
    raise "#{e.message}\n#{inspect_value(name, "json .State")}\n#{docker("logs", name)}"
  end

  # The record of the worker in a container, which may have ended.
  def record(name)
    tar = docker("cp", "#{name}:/app/tmp/sidekiq/processes/1", "-", binmode: true)
    Gem::Package::TarReader.new(StringIO.new(tar)) { |reader| return JSON.parse(reader.first.read) }
  end

  def push(database, number, seconds)
    payload = { class: "Order", args: [number, seconds], jid: SecureRandom.hex(12), queue: "default", retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    redis.pipelined(%w[SADD queues default], ["LPUSH", "queue:default", JSON.generate(payload)], database:)
  end

  # A note that was sent twice counts once; that of a job that ran twice has another time.
  # @return [Array<Hash>] what jobs have noted: what (began, ended), number, at, worker
  def notes(database)
    redis.call("LRANGE", "notes", 0, -1, database:).uniq.map { |note| JSON.parse(note, symbolize_names: true) }
  end

  # @return [Array<String>] the jobs that wait in Redis
  def queued(database) = redis.call("LRANGE", "queue:default", 0, -1, database:)

  # Whether an order was begun, or has ended.
  def noted?(database, what, number)
    notes(database).any? { |note| note.values_at(:what, :number) == [what, number] }
  end

  # Removes all of its containers and images. The builder's intermediate steps have the same label.
  def clear
    label = "label=sidekiq_lifecycle.shop=#{@id}"
    containers = docker("ps", "-aq", "--filter", label).split
    docker("rm", "-f", "-v", *containers) if containers.any?
    images = docker("images", "-q", "--filter", label).split.uniq
    docker("rmi", "-f", *images) if images.any?
    docker("image", "prune", "-f", "--filter", label)
    FileUtils.rm_rf(@directory)
  end

  private

  def redis = RedisServer.shared

  def write
    FileUtils.cp_r(File.expand_path("../../examples/shop", __dir__), root)
    File.write(File.join(root, "app.rb"), "\n#{JOBS}", mode: "a")
    FileUtils.cp_r(ENV.fetch("GEM_HOME"), File.join(@directory, "gems"))
    File.write(File.join(@directory, "Dockerfile"), format(DOCKERFILE, debian: DebianImage.prepare, id: @id))
    code, out = try("sidekiq-lifecycle", "generate", "compose", "--root", root)
    raise out unless code.zero?
  end

  # With the legacy builder, which every Docker has.
  def build(name, directory, *options)
    words = ["build", "--network", "none", "-t", name, *options, directory]
    code, out = try({ "DOCKER_BUILDKIT" => "0" }, "docker", *words)
    raise "docker build: #{code}\n#{out}" unless code.zero?
  end
end
