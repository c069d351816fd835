# frozen_string_literal: true

require "fileutils"
require "securerandom"
require_relative "container"
require_relative "redis_server"
require_relative "sandbox"
require_relative "waiting"

# A real systemd as PID 1 of a container, with the units of examples/systemd in it as they are. What an administrator
# has to set in them is set as they would without editing them: in a drop-in.
class SystemdMachine < Container
  include Waiting

  SYSTEMD = "/usr/lib/systemd/systemd"
  EXAMPLES = File.expand_path("../../examples/systemd", __dir__)
  HIERARCHY = "/sys/fs/cgroup/systemd"
  # Where the examples say that the application lies.
  HOME = "/var/www/app/current"
  USER = 1000

  APPLICATION = <<~RUBY
    def note(text) = File.write("notes", "\#{text}\\n", mode: "a")
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

  # @return [String, nil] why there can be none here, in words
  def self.missing
    return "it wants a Debian with systemd, which is that of Sidekiq 7" unless File.exist?(SYSTEMD)

    # With the second one alone a container needs other rights, which nobody has tried here.
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
  # @param before [String] Ruby at the top of the application
  # @param startup [String] Ruby in a :startup hook of the application's
  def initialize(service: "", before: "", startup: "", options: "-c 2 -t 25") # rubocop:disable Lint/MissingSuper
    @directory = File.join("/build/systemd", SecureRandom.hex(6))
    @database = Sandbox.next_database
    FileUtils.mkdir_p(app)
    FileUtils.cp_r("/etc", etc, preserve: true)
    File.write(file("app.rb"), format(APPLICATION, redis: redis.url(@database), before:, startup:))
    FileUtils.chown_R(USER, USER, app)
    File.write("#{etc}/passwd", "deploy:x:#{USER}:#{USER}::#{HOME}:/bin/sh\n", mode: "a")
    File.write("#{etc}/shadow", "deploy:*:20000:0:99999:7:::\n", mode: "a")
    File.write("#{etc}/group", "deploy:x:#{USER}:\n", mode: "a")
    install_units(service, options)
    redis.call("FLUSHDB", database: @database)
    boot
  end

  def systemctl(*words) = exec("systemctl", *words)

  # @return [Hash{String => String}]
  def show(unit = "sidekiq")
    systemctl("show", unit).last.scan(/^(\w+)=(.*)$/).to_h
  end

  def doctor = exec(SidekiqLifecycle::NativeCommand.path, "doctor", "--dir", "#{HOME}/tmp/sidekiq")

  def start(unit = "sidekiq", *options) = systemctl("start", *options, unit)

  # What a job does, in Ruby.
  def push(code)
    payload = { class: "Evaluate", args: [code], jid: SecureRandom.hex(12), queue: "default", retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    redis.pipelined(%w[SADD queues default], ["LPUSH", "queue:default", JSON.generate(payload)], database: @database)
  end

  def queued = redis.call("LLEN", "queue:default", database: @database)
  def file(name) = File.join(app, name)
  def notes = File.exist?(file("notes")) ? File.readlines(file("notes"), chomp: true) : []
  def wait_for_note(text) = wait_until("a note #{text}") { notes.include?(text) }

  def wait_for_status(text, unit = "sidekiq")
    wait_until("status #{text}") { show(unit)["StatusText"] == text }
  end

  # All there is to know.
  def story
    log = File.exist?(file("log")) ? File.read(file("log")) : ""
    "--- notes\n#{notes.join("\n")}\n--- log\n#{log}\n--- systemctl\n#{systemctl("status", "sidekiq*").last}\n" \
      "--- systemd\n#{self.log.lines.last(30).join}"
  end

  def clear
    remove if @id
    FileUtils.rm_rf(@directory)
  end

  private

  def app = File.join(@directory, "app")
  def etc = File.join(@directory, "etc")
  def redis = RedisServer.shared

  def install_units(service, options)
    units = %w[sidekiq.service sidekiq@.service]
    units.each do |unit|
      FileUtils.cp(File.join(EXAMPLES, unit), "#{etc}/systemd/system/")
      FileUtils.mkdir_p("#{etc}/systemd/system/#{unit}.d")
      File.write("#{etc}/systemd/system/#{unit}.d/here.conf", <<~UNIT)
        [Service]
        ExecStart=
        ExecStart=/usr/bin/sidekiq -r ./app.rb #{options}
        Environment=GEM_HOME=#{ENV.fetch("GEM_HOME")} LANG=C.UTF-8
        StandardOutput=append:#{HOME}/log
        StandardError=append:#{HOME}/log
        #{service}
      UNIT
    end
    FileUtils.mkdir_p("#{etc}/sudoers.d")
    FileUtils.install(File.join(EXAMPLES, "sudoers"), "#{etc}/sudoers.d/sidekiq", mode: 0o440)
  end

  def boot
    gems = ENV.fetch("GEM_HOME")
    binds = ["#{ENV.fetch("ROOT_OUTSIDE")}/usr:/usr:ro", "#{Container.outside(gems)}:#{gems}:ro",
             "#{Container.outside(app)}:#{HOME}", "#{Container.outside(etc)}:/etc", "#{HIERARCHY}:#{HIERARCHY}:rw"]
    host = { NetworkMode: "host", CapAdd: ["SYS_ADMIN"], SecurityOpt: ["seccomp=unconfined"], CgroupnsMode: "private",
             Tmpfs: { "/run" => "", "/run/lock" => "", "/tmp" => "" }, Binds: binds }
    # systemd 256 and 257 have to be told that the first version of cgroups is meant.
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
