# frozen_string_literal: true

# What bin/demo shows. Every line with an expectation is checked; the exit status is 0 only if all of them were met.

require "json"
require "open3"
require "sidekiq"
require "sidekiq_lifecycle/cli"
require "sidekiq_lifecycle/version"
require "tmpdir"
require_relative "../spec/support/redis_server"
require_relative "../spec/support/worker"

class Demo
  include Waiting

  COMMAND = SidekiqLifecycle::CLI.path
  JOBS = %w[first long third fourth last].freeze
  # The only job of the Sidekiq that a shell starts.
  BELOW = "below"
  # These run until the demo lets them end, so that what it shows does not depend on the machine's speed.
  HELD = ["long", "third", "last", BELOW].freeze
  APPLICATION = <<~RUBY.freeze
    class Task
      include Sidekiq::Worker
      def perform(name)
        note "\#{name} begins"
        sleep 0.5
        sleep 0.05 while #{HELD}.include?(name) && !File.exist?("\#{name} may end")
        note "\#{name} ends"
      end
    end
    sleep 0.05 until File.exist?("boot may end")
  RUBY

  def initialize(directory)
    @app = directory
    @redis = RedisServer.new
    @begun = Waiting.now
    @wrong = []
    @workers = []
  end

  def run
    first_generation
    second_generation
    below_a_shell if RUBY_PLATFORM.include?("linux")
    fleet_of_two
    nothing_lost
    held?
  ensure
    @workers.each(&:kill)
    @redis.stop
  end

  private

  def first_generation
    say "a Sidekiq starts, and takes a while to boot"
    worker = start
    wait_until("it registers") { !Dir.glob(File.join(@app, "tmp/sidekiq/processes/*")).empty? || worker.raise_if_ended }
    show(ready: false, live: true, drained: false, state: "booting")

    allow("boot")
    say "it has started"
    wait_until("it is ready") { worker.ready_file? || worker.raise_if_ended }
    show(ready: true, live: true, drained: false, state: "running")

    say "#{JOBS.size} jobs are pushed; two run at a time"
    JOBS.each { |name| push(name) }
    wait_until("one job has ended, two run") { (["first ends", "long begins", "third begins"] - notes).empty? }
    show(ready: true, live: true, drained: false, state: "running")

    say "TSTP: quiet. It finishes its running jobs and takes no more"
    worker.signal(:TSTP)
    wait_until("no longer ready") { !worker.ready_file? }
    show(ready: false, live: true, drained: false, state: "quiet")
    %w[long third].each { |name| allow(name) }
    wait_until("drained") { File.exist?(File.join(@app, "tmp/sidekiq/drained")) }
    say "its jobs have ended"
    show(ready: false, live: true, drained: true, state: "quiet, drained")
    left = JOBS.size - notes.grep(/ ends$/).size
    expect("#{left} jobs wait in Redis for the next Sidekiq", queued == left && left.positive?)

    say "TERM: stop"
    worker.signal(:TERM)
    expect("it exits with 0", worker.exit_code.zero?)
    show(ready: false, live: false, drained: false, state: "stopped")
  end

  def second_generation
    say "the next Sidekiq starts, and gets TERM in the middle of the last job"
    worker = start
    wait_until("the last job begins") { notes.include?("last begins") || worker.raise_if_ended }
    wait_until("every other job has ended") { notes.grep(/ ends$/).size == JOBS.size - 1 }
    worker.signal(:TERM)
    wait_until("no longer ready") { !worker.ready_file? }
    show(ready: false, live: true, drained: false, state: "stopping")
    allow("last")
    expect("it exits with 0", worker.exit_code.zero?)
    show(ready: false, live: false, drained: false, state: "stopped")
  end

  # In a container this shell would be PID 1.
  def below_a_shell
    say "a shell starts the next one, as CMD bundle exec sidekiq does in a Dockerfile: the shell gets TERM"
    worker = start(launcher: ["sh", "-c", '"$@"; exit $?', "sh"])
    push(BELOW)
    wait_until("its job begins") { notes.include?("#{BELOW} begins") || worker.raise_if_ended }
    wait_until("ready") { worker.ready_file? }
    records = Dir[File.join(@app, "tmp/sidekiq/processes/*")].map { |file| JSON.parse(File.read(file)) }
    path = records.find { |record| record["state"] == "running" }.fetch("signal_path")
    expect("a relay, process #{path["relay"]}, forwards signals past the shell", path["relay"].is_a?(Integer))
    worker.signal(:TERM)
    wait_until("no longer ready") { !worker.ready_file? }
    show(ready: false, live: true, drained: false, state: "stopping")
    allow(BELOW)
    expect("the shell has waited, and exits with 0", worker.exit_code.zero?)
    expect("its job: begun once, ended once", notes.tally.values_at("#{BELOW} begins", "#{BELOW} ends") == [1, 1])
  end

  def fleet_of_two
    say "two more start; fleet controls them through Redis, and they react at their next heartbeats"
    workers = Array.new(2) { start }
    wait_until("both are listed") { @redis.call("SCARD", "processes") == 2 || workers.each(&:raise_if_ended).nil? }
    fleet("status")
    fleet("quiet", "--wait")
    fleet("stop")
    expect("both exit with 0", workers.all? { |worker| worker.exit_code.zero? })
  end

  def nothing_lost
    say "and the jobs?"
    JOBS.each do |name|
      expect("#{name}: begun once, ended once", notes.tally.values_at("#{name} begins", "#{name} ends") == [1, 1])
    end
    expect("none waits, none is to be retried", queued.zero? && @redis.call("ZCARD", "retry").zero?)
  end

  def held?
    puts
    if @wrong.empty?
      puts "Everything was as expected: ready, quiet and drained at the right time, no signal and no job lost."
      return true
    end
    puts("This was not as expected:", @wrong.map { |sentence| "  #{sentence}" })
    puts @workers
    false
  end

  # Shows what a script, a health check and a person see now.
  def show(ready:, live:, drained:, state:)
    expect("test -f tmp/sidekiq/ready", File.exist?(File.join(@app, "tmp/sidekiq/ready")), ready)
    { "ready" => ready, "live" => live, "drained" => drained }.each do |probe, expected|
      output, status = Open3.capture2e(COMMAND, "check", probe, chdir: @app)
      expect("check #{probe.ljust(7)}  #{output.chomp}", status.success?, expected)
    end
    output, = Open3.capture2e(COMMAND, "status", chdir: @app)
    output.each_line { |line| puts "           | #{line}" }
    @wrong << "status says #{state}" unless output.lines[1].to_s.include?(state)
  end

  # It finds Redis as the application does.
  def fleet(*arguments)
    output, status = Open3.capture2("sidekiq-lifecycle", "fleet", *arguments, "-r", "./app.rb", chdir: @app)
    expect("sidekiq-lifecycle fleet #{arguments.join(" ")}", status.success?)
    output.each_line { |line| puts "           | #{line}" }
  end

  def expect(sentence, answer, expected = true)
    mark = answer == expected ? "" : "   <-- WRONG"
    @wrong << sentence unless answer == expected
    puts format("           %-3<answer>s %<sentence>s%<mark>s", answer: answer ? "yes" : "no", sentence:, mark:)
  end

  def say(sentence)
    puts format("\n%7.2<time>f s  %<sentence>s", time: Waiting.now - @begun, sentence:)
  end

  def start(**options)
    worker = Worker.new(app: @app, redis: @redis, database: 0, after: APPLICATION, timeout: 60, **options)
    @workers << worker
    worker
  end

  def allow(name) = FileUtils.touch(File.join(@app, "#{name} may end"))

  def push(name)
    payload = { class: "Task", args: [name], jid: name, queue: "default", retry: true,
                created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
    @redis.call("LPUSH", "queue:default", JSON.generate(payload))
  end

  def queued = @redis.call("LLEN", "queue:default")
  def notes = File.exist?(File.join(@app, "notes")) ? File.readlines(File.join(@app, "notes"), chomp: true) : []
end

puts "sidekiq_lifecycle #{SidekiqLifecycle::VERSION}, Sidekiq #{Sidekiq::VERSION}, Ruby #{RUBY_VERSION}"
held = Dir.mktmpdir("demo") do |directory|
  application = File.join(File.realpath(directory), "shop")
  Dir.mkdir(application)
  Demo.new(application).run
end
exit(held ? 0 : 1)
