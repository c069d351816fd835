# frozen_string_literal: true

require "fileutils"
require "securerandom"
require "sidekiq_lifecycle/generate/target"
require "sidekiq_lifecycle/generate/app_config"
require_relative "container"
require_relative "redis_server"
require_relative "sandbox"
require_relative "waiting"

# A real systemd as PID 1 of a container, with the unchanged units and sudoers lines that `generate systemd` writes for
# the application in it. A drop-in adds what has to be different here.
class SystemdMachine < Container
  include Waiting

  SYSTEMD = "/usr/lib/systemd/systemd"
  HIERARCHY = "/sys/fs/cgroup/systemd"
  # The last version that supports version 1 of cgroups.
  LAST = 257
  # The application's directory in the generated units.
  DEPLOY_TO = "/srv/shop"
  USER = 1000

  APPLICATION = <<~RUBY
    def note(text) = File.write("notes", "\#{text}\\n", mode: "a")
    def ready? = File.exist?(File.join(ENV.fetch("SIDEKIQ_LIFECYCLE_DIR"), "ready"))
    %<before>s
    require "sidekiq"
    require "sidekiq_lifecycle"
    Sidekiq.configure_server do |config|
      config.redis = { url: "%<redis>s" }
      config.on(:startup) { %<startup>s }
      SidekiqLifecycle.install(config)
    end
    class Evaluate
      include Sidekiq::Worker
      def perform(code) = instance_eval(code)
    end
  RUBY

  # @return [String, nil] why there can be no such machine here
  def self.missing
    return "it wants a Debian with systemd, as those of Sidekiq 6 and 7 are" unless File.exist?(SYSTEMD)

    # Chromium brings one along.
    version = IO.popen([SYSTEMD, "--version"], err: File::NULL, &:read)[/\d+/].to_i
    return "systemd #{version} does not support version 1 of cgroups; #{LAST} does" if version > LAST

    # With version 2 alone a container needs other rights, which has not been tried here.
    return if File.read("/proc/self/cgroup").include?(":name=systemd:")

    "it wants systemd's hierarchy of cgroups version 1 (#{HIERARCHY})"
  end

  def self.open(...)
    machine = new(...)
    begin
      yield machine
    rescue StandardError, RSpec::Expectations::ExpectationNotMetError => e
      raise e, "#{e.message}\n#{machine.story}"
    end
  ensure
    machine&.clear
  end

  # @param service [String] lines for the drop-in's [Service]
  # @param source [String, nil] an application that will be deployed from /srv/source; without it a small one
  #   is there at once
  # @param application [Hash] see {#write_application}
  def initialize(service: "", source: nil, **application) # rubocop:disable Lint/MissingSuper
    @directory = File.join("/build/systemd", SecureRandom.hex(6))
    @source = source
    FileUtils.mkdir_p(srv)
    FileUtils.cp_r("/etc", etc, preserve: true)
    write_application(**application) unless source
    FileUtils.chown_R(USER, USER, srv)
    install(service)
    boot
  end

  # Runs a command as the workers' user.
  attr_reader :user

  def systemctl(*words) = exec("systemctl", *words)

  # Runs systemctl with sudo as the workers' user.
  def sudo_systemctl(*words) = exec("runuser", "-u", user, "--", "sudo", "-n", "systemctl", *words)

  # @return [Hash{String => String}]
  def show(unit = "sidekiq")
    systemctl("show", unit).last.scan(/^(\w+)=(.*)$/).to_h
  end

  # The native command, for the machine's workers.
  def lifecycle(*words) = exec(SidekiqLifecycle::CLI.path, *words, "--dir", "#{DEPLOY_TO}/shared/tmp/sidekiq")

  def doctor = lifecycle("doctor")

  def start(unit = "sidekiq", *options) = systemctl("start", *options, unit)

  # Starts the machine's own sshd, which accepts the user with this key.
  # @return [Integer] its port
  def listen(address, public_key)
    port = RedisServer.free_port
    FileUtils.mkdir_p("#{etc}/ssh/keys")
    File.write("#{etc}/ssh/keys/#{user}", public_key)
    File.write("#{etc}/ssh/sshd_config.d/here.conf", <<~CONFIG)
      ListenAddress #{address}
      Port #{port}
      AuthorizedKeysFile /etc/ssh/keys/%u
    CONFIG
    # Until the former has run, only root may log in.
    code, said = systemctl("start", "systemd-user-sessions", "ssh")
    raise "sshd does not start: #{said}" unless code.zero?

    port
  end

  # Creates a release as Capistrano does.
  def release(source, name)
    directory = File.join(srv, "releases", name)
    FileUtils.mkdir_p([directory, shared("")])
    FileUtils.cp_r(%w[Gemfile app.rb config].map { |file| File.join(source, file) }, directory)
    FileUtils.ln_s("#{DEPLOY_TO}/releases/#{name}", File.join(srv, "current"), force: true)
    FileUtils.chown_R(USER, USER, srv)
  end

  # The path of the current release in the machine.
  def current = File.readlink(File.join(srv, "current"))

  # Removes the other releases.
  def keep_current
    others = Dir.children(File.join(srv, "releases")) - [File.basename(current)]
    FileUtils.rm_rf(others.map { |name| File.join(srv, "releases", name) })
  end

  # A file that all releases share.
  def shared(name) = File.join(srv, "shared", name)

  # Pushes a job that runs this Ruby code.
  def push(code)
    payload = { class: "Evaluate", args: [code], jid: SecureRandom.hex(12), queue: "default", retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    redis.pipelined(%w[SADD queues default], ["LPUSH", "queue:default", JSON.generate(payload)], database: @database)
  end

  def queued = redis.call("LLEN", "queue:default", database: @database)
  def file(name) = File.join(srv, "current", name)
  def ready_file = shared("tmp/sidekiq/ready")
  def notes = File.exist?(file("notes")) ? File.readlines(file("notes"), chomp: true) : []
  def wait_for_note(text) = wait_until("a note #{text}") { notes.include?(text) }

  def wait_for_status(text, unit = "sidekiq")
    wait_until("status #{text}") { text === show(unit)["StatusText"] } # rubocop:disable Style/CaseEquality -- a text or a pattern
  end

  # Everything known about the machine, for an error message.
  def story
    log = File.exist?("#{srv}/log") ? File.read("#{srv}/log") : ""
    "--- notes\n#{notes.join("\n")}\n--- log\n#{log}\n--- systemctl\n#{systemctl("status", "sidekiq*").last}\n" \
      "--- systemd\n#{self.log.lines.last(30).join}"
  end

  def clear
    remove if @id
    FileUtils.rm_rf(@directory)
  end

  private

  def srv = File.join(@directory, "srv")
  def etc = File.join(@directory, "etc")
  def redis = RedisServer.shared

  # @param before [String] Ruby at the top of the application
  # @param startup [String] Ruby in a :startup hook of the application's
  # @param timeout [Integer] Sidekiq's -t
  def write_application(before: "", startup: "", timeout: 25)
    @database = Sandbox.next_database
    redis.call("FLUSHDB", database: @database)
    FileUtils.mkdir_p(file("config"))
    File.write(file("app.rb"), format(APPLICATION, redis: redis.url(@database), before:, startup:))
    File.write(file("config/sidekiq.yml"), ":tag: shop\n:require: ./app.rb\n:concurrency: 2\n:timeout: #{timeout}\n")
    File.write(file("Gemfile"), %(gem "sidekiq"\ngem "sidekiq_lifecycle"\n))
  end

  def install(service)
    given = { "environment" => "production", "queues" => [] }
    application = SidekiqLifecycle::Generate::AppConfig.new(@source || file(""), given)
    files = SidekiqLifecycle::Generate::Target.new("systemd", application).files
    files.transform_keys { |name| File.basename(name) }.each do |name, contents|
      if name == "sudoers" then put("sudoers.d/shop-sidekiq", contents, 0o440)
      else
        put("systemd/system/#{name}", contents)
        put("systemd/system/#{name}.d/here.conf", drop_in(service))
      end
    end
    add_user(application.user)
    # Allows git to fetch from a repository of another user.
    put("gitconfig", "[safe]\n  directory = *\n")
  end

  def put(name, contents, mode = 0o644)
    path = File.join(etc, name)
    FileUtils.mkdir_p(File.dirname(path))
    File.write(path, contents)
    File.chmod(mode, path)
  end

  def drop_in(service)
    <<~UNIT
      [Service]
      Environment=GEM_HOME=#{ENV.fetch("GEM_HOME")} LANG=C.UTF-8
      StandardOutput=append:#{DEPLOY_TO}/log
      StandardError=append:#{DEPLOY_TO}/log
      #{service}
    UNIT
  end

  def add_user(name)
    @user = name
    { "passwd" => "#{name}:x:#{USER}:#{USER}::#{DEPLOY_TO}:/bin/sh", "shadow" => "#{name}:*:20000:0:99999:7:::",
      "group" => "#{name}:x:#{USER}:" }.each { |file, line| File.write("#{etc}/#{file}", "#{line}\n", mode: "a") }
  end

  def boot
    gems = ENV.fetch("GEM_HOME")
    binds = ["#{ENV.fetch("ROOT_OUTSIDE")}/usr:/usr:ro", "#{Container.outside(gems)}:#{gems}:ro",
             "#{Container.outside(srv)}:#{DEPLOY_TO}", "#{Container.outside(etc)}:/etc", "#{HIERARCHY}:#{HIERARCHY}:rw"]
    binds << "#{Container.outside(@source)}:/srv/source:ro" if @source
    host = { NetworkMode: "host", CapAdd: ["SYS_ADMIN"], SecurityOpt: ["seccomp=unconfined"], CgroupnsMode: "private",
             Tmpfs: { "/run" => "", "/run/lock" => "", "/tmp" => "" }, Binds: binds }
    # systemd 256 and 257 need this option to use version 1 of cgroups.
    command = [SYSTEMD, "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "systemd.unified_cgroup_hierarchy=0",
               "systemd.unit=basic.target"]
    description = { Image: IMAGE, Cmd: command, Env: ["container=docker"], HostConfig: host }
    @id = JSON.parse(Container.call("POST", "/containers/create", JSON.generate(description)))["Id"]
    post("start")
    wait_until("systemd is up") { systemctl("is-active", "basic.target").first.zero? }
  rescue StandardError
    clear
    raise
  end
end
