# frozen_string_literal: true

require "json"

# A container that is killed, with its worker and its relay in one state each. The worker has `-t 120` and does not end
# by itself. If anything waits for it, the container is still there long after it was killed.
class KilledContainer
  WORKERS = {
    "idle" => "has no job",
    "busy" => "has jobs that never end",
    "stuck" => "has a job that holds the GVL in native code forever",
    "hung" => "was told to stop, and hangs in `at_exit { sleep }`",
    "frozen" => "was suspended by SIGSTOP"
  }.freeze
  WAYS = { "stop" => "docker stop -t 5", "kill" => "docker kill", "rm" => "docker rm -f" }.freeze
  RELAYS = %w[alive stopped killed].freeze
  OFF = "off"
  COMBINATIONS = WORKERS.keys.product(WAYS.keys, RELAYS).freeze

  # How long Sidekiq, and so the relay, may wait for a worker; and when the spec gives up.
  TIMEOUT = 120
  LIMIT = 100
  STOP_TIMEOUT = 5

  class << self
    # @return [String] the file with all measurements, one JSON object a line; script/kill_matrix.rb makes tables of it
    def measured = File.join(LaunchedContainer::DIRECTORY, "killed")

    # @return [Array<KilledContainer>] each form with every combination
    def all(forms) = forms.product(COMBINATIONS).map { |form, combination| new(form, *combination) }

    # @return [Array<KilledContainer>] each form and each combination at least once
    def covering(forms)
      Array.new([forms.size, COMBINATIONS.size].max) do |number|
        # 7 and the number of combinations have no common divisor.
        new(forms[number % forms.size], *COMBINATIONS[number * 7 % COMBINATIONS.size])
      end
    end
  end

  attr_reader :form, :worker, :way, :relay, :story

  # @return [Float, nil] how many seconds after the kill the container was gone; nil if it stayed
  attr_reader :seconds

  def initialize(form, worker, way, relay)
    @form = form
    @worker = worker
    @way = way
    @relay = relay
  end

  # @return [KilledContainer] the same with the relay off
  def without_relay = KilledContainer.new(form, worker, way, OFF)

  def key = [form.name, worker, way, relay]
  def eql?(other) = key == other.key
  def hash = key.hash
  def to_s = "#{form}, #{worker} worker, relay #{relay}: #{WAYS.fetch(way)}"

  def run
    launch_form do |launch|
      prepare_worker(launch)
      prepare_relay(launch)
      @seconds = measure(launch)
      @story = launch.story
    end
    line = { form: form.name, sidekiq: Sandbox::MAJOR, worker:, way:, relay:, seconds: @seconds&.round(1) }
    File.write(KilledContainer.measured, "#{JSON.generate(line)}\n", mode: "a")
    self
  end

  private

  def launch_form(&block)
    install = "lifecycle.signal_relay = :off" if relay == OFF
    after = 'at_exit { note("hangs") and sleep }' if worker == "hung"
    LaunchedContainer.prepared(form.with_timeout(TIMEOUT), install: install.to_s, after: after.to_s, &block)
  end

  def prepare_worker(launch)
    launch.boot
    launch.await("ready") do
      launch.ready? && launch.records.map { |record| record["state"] } == ["running"] * form.sidekiqs
    end
    # On a very busy machine it may start late.
    launch.await("the relay is there") { launch.relays.size == form.sidekiqs } unless relay == OFF
    case worker
    when "busy", "stuck" then occupy(launch, { "busy" => "Long", "stuck" => "Stuck" }.fetch(worker))
    when "frozen" then launch.send_inside("STOP", *workers(launch))
    # `docker stop` itself sends the TERM.
    when "hung" then hang(launch) unless way == "stop"
    end
    launch.await("it is frozen") { launch.frozen? } if worker == "frozen"
  end

  # A worker whose GVL is held takes no other job, except one that another of its threads was already waiting for.
  def occupy(launch, job)
    form.sidekiqs.times do |number|
      launch.push(job)
      pushed = Waiting.now
      launch.await("the job runs") do
        next true if launch.noted("#{job.downcase} begins").size > number
        next false if Waiting.now - pushed < 3

        launch.push(job)
        pushed = Waiting.now
        false
      end
    end
  end

  def hang(launch)
    launch.send_inside("TERM", *workers(launch))
    launch.await("it hangs") { launch.noted("hangs").size == form.sidekiqs }
  end

  def prepare_relay(launch)
    launch.send_inside("STOP", *launch.relays) if relay == "stopped"
    return unless relay == "killed"

    launch.send_inside("KILL", *launch.relays)
    launch.await("the relay is gone") { launch.processes.grep_v(/\AZ/).grep(/\brelay\b/).empty? }
  end

  def workers(launch) = launch.records.map { |record| record["pid"] }

  # Docker answers when the container is gone, or reports some time later that it cannot end it.
  def measure(launch)
    begun = Waiting.now
    killer = Thread.new { kill(launch) }
    killer.report_on_exception = false
    sleep 0.05 while launch.running? && Waiting.now - begun < LIMIT
    Waiting.now - begun unless launch.running?
  ensure
    killer&.kill
  end

  def kill(launch)
    case way
    when "stop" then launch.stop(STOP_TIMEOUT)
    when "kill" then launch.kill
    when "rm" then launch.remove
    end
  end
end
