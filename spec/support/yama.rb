# frozen_string_literal: true

require "fileutils"
require "json"
require "open3"
require "tmpdir"

# What saves the job of a Sidekiq below a shell that is PID 1, where Yama forbids tracing. bin/yama measures it as root
# in a virtual machine that has only Ruby, Sidekiq and Redis.
#
# The machine has no Docker. A container is a PID namespace with Docker's capabilities: root has all of the bounding
# set, any other user none. Docker's seccomp profile is left out, because it allows every trace that the kernel allows.
class Yama
  SCOPES = [0, 1, 2].freeze
  USERS = { "root" => 0, "uid 1000" => 1000 }.freeze
  # The means against it, and their names in the table.
  MEANS = {
    "nothing" => "nothing", "capability" => "`--cap-add SYS_PTRACE`",
    "file" => "that, and the file capability", "run" => "`run` in front", "exec" => "`exec` in the script"
  }.freeze
  # Docker's default capabilities.
  CAPABILITIES = %w[chown dac_override fsetid fowner mknod net_raw setgid setuid setfcap setpcap net_bind_service
                    sys_chroot kill audit_write].freeze
  REDIS = "/run/redis.sock"
  # `docker stop -t`. A stop that reaches Sidekiq takes about 10 s, and somewhat more in an emulated machine.
  PATIENCE = 60
  APPLICATION = <<~RUBY.freeze
    require "sidekiq"
    require "sidekiq_lifecycle"
    Sidekiq.configure_server do |config|
      config.redis = { url: "unix://#{REDIS}" }
      SidekiqLifecycle.install(config)
    end
    class Long
      include Sidekiq::Job
      def perform = File.write("begun", "") && sleep
    end
  RUBY

  class << self
    # Prints the result of each case, one JSON object a line, and the kernel's version as the last line.
    def measure
      $stdout.sync = true
      redis = spawn("redis-server", "--port", "0", "--unixsocket", REDIS, "--unixsocketperm", "777", "--save", "",
                    %i[out err] => File::NULL)
      sleep 0.1 until File.socket?(REDIS)
      gems = prepare_gems
      SCOPES.product(USERS.keys, MEANS.keys).each do |scope, user, means|
        File.write("/proc/sys/kernel/yama/ptrace_scope", scope.to_s)
        puts JSON.generate(new(user, means, gems.fetch(means)).run.merge(scope:, user:, means:))
      end
      puts JSON.generate(kernel: File.read("/proc/sys/kernel/osrelease")[/\A\d+\.\d+/])
    ensure
      Process.kill(:KILL, redis) if redis
    end

    # @return [Array<String>] where the native command is
    def native(gems) = Dir["#{gems}/**/sidekiq_lifecycle/sidekiq-lifecycle"]

    # Prints the page.
    def write(lines = $stdin.readlines)
      measured = lines.filter_map { |line| JSON.parse(line) if line.start_with?("{") }
      kernel = measured.pop&.fetch("kernel", nil) or raise "the measurement was cut short"
      cells = measured.to_h { |one| [one.values_at("scope", "user", "means"), cell(one)] }
      rows = SCOPES.product(USERS.keys).map do |row|
        "| #{[*row, *MEANS.keys.map { |means| cells.fetch([*row, means]) }].join(" | ")} |"
      end
      puts page(kernel, rows.join("\n"))
    end

    private

    # The gems with the plain command, and a copy in which the command has the capability.
    def prepare_gems
      FileUtils.cp_r("/mnt/gems", "/tmp/capable")
      native("/tmp/capable").each { |path| system("setcap", "cap_sys_ptrace+ep", path, exception: true) }
      MEANS.to_h { |means, _| [means, means == "file" ? "/tmp/capable" : "/mnt/gems"] }
    end

    # Only root must get the advice to add a capability.
    def cell(one)
      is_told = one["told"]&.include?("Yama forbids it") &&
                one["told"].include?("SYS_PTRACE") == (one["user"] == "root")
      raise "not told as it should be: #{one}" unless is_told || one["result"] == "saved"

      one["exit"].zero? ? one["result"] : "#{one["result"]}, exit #{one["exit"]}"
    end

    def page(kernel, rows)
      <<~MARKDOWN
        # Where Yama forbids tracing

        `bin/test --full` measures this in a virtual machine with Debian's kernel #{kernel}. `bash script` is PID 1 of a PID namespace.
        Sidekiq 7.3 runs in the foreground of the script with a running job. PID 1 gets a SIGTERM, and a SIGKILL #{PATIENCE} s later.

        The machine has no Docker; the measurement sets the capabilities as Docker sets them. A user other than root then has none,
        whatever `--cap-add` says, because `--cap-add` only changes the bounding set for such a user. In each case in which the job was
        lost, the log had announced it at boot, and said what to do.

        | `kernel.yama.ptrace_scope` | worker | #{MEANS.values.join(" | ")} |
        |---|---|#{"---|" * MEANS.size}
        #{rows}

        `sysctl kernel.yama.ptrace_scope` prints the value of a machine. It is 1 on Ubuntu and Docker Desktop, and 0 on Debian. What helps:

        1. **Any user, any value:** put [`sidekiq-lifecycle run --`](run.md) in front of the command, or `exec` before Sidekiq in the
           script. Neither needs ptrace.
        2. **A worker that runs as root, with 1 or 2:** add the capability `SYS_PTRACE`. With 3 no process may trace another.
        3. **A worker that does not run as root:** `SYS_PTRACE` alone does nothing. It works together with
           `setcap cap_sys_ptrace+ep "$(bundle exec sidekiq-lifecycle path)"` in the image. But then that command, which health checks
           use too, cannot start in a container without `SYS_PTRACE`, and has no capability with `no-new-privileges`. Use `run` instead.
        4. **The administrator of the machine** can set `kernel.yama.ptrace_scope` to 0 for everything on it.
      MARKDOWN
    end
  end

  def initialize(user, means, gems)
    @uid = USERS.fetch(user)
    @means = means
    @gems = gems
    @app = Dir.mktmpdir
    File.write(file("app.rb"), APPLICATION)
    File.write(file("script"), "#{"exec " if means == "exec"}sidekiq -r ./app.rb -c 1 -t 3\n")
    FileUtils.chown_R(@uid, @uid, @app)
  end

  # @return [Hash] what happened to the job, the exit code, and what the log said about it at boot
  def run
    redis("FLUSHALL")
    redis("SADD", "queues", "default")
    redis("LPUSH", "queue:default", JSON.generate(class: "Long", args: [], jid: "1", queue: "default", retry: true))
    launcher = spawn(environment, *container, *command, chdir: @app, %i[out err] => file("log"))
    wait_until_busy(launcher)
    told = log[/a SIGTERM sent to .* is lost.*/]
    code = stop(launcher)
    { result: redis("LLEN", "queue:default") == "1" ? "saved" : "lost", exit: code, told: }
  end

  private

  # Unshare waits for it, and exits with its status.
  def container
    capabilities = CAPABILITIES + (%w[capability file].include?(@means) ? ["sys_ptrace"] : [])
    bounding_set = ["-all", *capabilities.map { |name| "+#{name}" }].join(",")
    setpriv = "setpriv --reuid #{@uid} --regid #{@uid} --clear-groups --inh-caps -all --bounding-set #{bounding_set} --"
    "unshare --pid --fork --mount-proc -- #{setpriv}".split
  end

  def command = [*(%w[sidekiq-lifecycle run --] if @means == "run"), "bash", "script"]

  # The native command is found as in a Dockerfile that links it into a directory of PATH.
  def environment
    { "GEM_HOME" => @gems, "PATH" => "#{File.dirname(Yama.native(@gems).first)}:#{ENV.fetch("PATH")}" }
  end

  def wait_until_busy(launcher)
    until File.exist?(file("begun")) && File.exist?(file("tmp/sidekiq/ready"))
      raise "it has ended: #{log}" if Process.wait(launcher, Process::WNOHANG)

      sleep 0.1
    end
  end

  # As `docker stop`.
  # @return [Integer] as `docker run` would give it
  def stop(launcher)
    first = File.read("/proc/#{launcher}/task/#{launcher}/children").to_i
    Process.kill(:TERM, first)
    killer = Thread.new { sleep PATIENCE and Process.kill(:KILL, first) }
    status = Process.wait2(launcher).last
    killer.kill
    status.exitstatus || (128 + status.termsig)
  end

  def redis(*words) = Open3.capture2("redis-cli", "-s", REDIS, *words).first.chomp
  def log = File.read(file("log"))
  def file(name) = File.join(@app, name)
end
