# frozen_string_literal: true

require_relative "waiting"

# A real Sidekiq process, started as users start it, in its own process group.
class Worker
  include Waiting

  JOBS = <<~RUBY
    def note(text) = File.open("notes", "a") { |notes| notes.puts(text) }

    class Sleep
      include Sidekiq::Worker
      def perform(seconds, name = "sleep")
        note "\#{name} begins"
        sleep seconds
        note "\#{name} ends"
      end
    end

    class Evaluate
      include Sidekiq::Worker
      def perform(code) = instance_eval(code)
    end
  RUBY

  attr_reader :pid, :log_file

  # @param launcher [Array<String>] goes before the command: ["unshare", "--pid", …]
  def initialize(app:, redis:, database:, install: "", before: "", after: "", startup: nil, gem: true, timeout: 8,
                 concurrency: 2, environment: {}, launcher: [], name: "app", **spawning)
    File.write(File.join(app, "#{name}.rb"), application(redis.url(database), install, before, after, startup, gem))
    command = ["sidekiq", "-r", "./#{name}.rb", "-c", concurrency.to_s, "-t", timeout.to_s]
    launch(*launcher, *command, app:, name:, environment:, **spawning)
  end

  # TERM, INT, TSTP, …
  def signal(name) = Process.kill(name, pid)

  def ready_file? = File.exist?(@ready_file)

  def log = File.exist?(log_file) ? File.read(log_file) : ""

  # Whether it still runs.
  def running? = status.nil?

  # Its Process::Status after it has ended, otherwise nil.
  def status
    @status ||= Process.wait2(pid, Process::WNOHANG)&.last
  end

  # Waits for its end.
  # @return [Integer] what a shell would show: the exit status, or 128 + the signal
  def exit_code
    wait_until("the Sidekiq ends\n#{log}") { status }
    status.exitstatus || (128 + status.termsig)
  end

  def raise_if_ended
    raise "the Sidekiq ended (#{status.inspect}):\n#{log}" if status
  end

  # Kills it and everything it has started.
  def kill
    Process.kill(:KILL, -pid)
    @status ||= Process.wait2(pid).last
  rescue Errno::ESRCH, Errno::ECHILD, Errno::EPERM
    nil
  end

  def to_s = "--- #{log_file} (#{status ? status.inspect : "running"}) ---\n#{log}"

  private

  def launch(*command, app:, name:, environment: {}, **spawning)
    @ready_file = File.join(app, "tmp/sidekiq/ready")
    @log_file = File.join(app, "#{name}.log")
    @pid = spawn(environment, *command, chdir: app, in: File::NULL, out: [log_file, "a"], err: %i[child out],
                                        pgroup: true, **spawning)
  end

  def application(url, install, before, after, startup, gem)
    <<~RUBY
      #{before}
      require "sidekiq"
      #{'require "sidekiq_lifecycle"' if gem}
      Sidekiq.configure_server do |config|
        config.redis = { url: #{url.inspect} }
        #{"SidekiqLifecycle.install(config) { |lifecycle| #{install} }" if gem}
        #{"config.on(:startup) { #{startup} }" if startup}
      end
      #{JOBS}
      #{after}
    RUBY
  end
end
