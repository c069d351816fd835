# frozen_string_literal: true

require_relative "waiting"

# Rounds of jobs of random length, each ended by a SIGKILL at a random moment, with the successors of what was killed.
class KilledRounds
  include Waiting

  # What is killed, and what it is doing.
  KINDS = %i[process group interrupted recovering two_recover].freeze
  THREADS = 4
  JOBS = 12
  # Seconds. With less an idle thread of Sidekiq can lose what another has pushed back.
  TIMEOUT = 3

  # What a process logs once it runs.
  RUNS = "sidekiq_lifecycle #{SidekiqLifecycle::VERSION}: ".freeze

  # What the jobs of these rounds are: they note their beginning and their end.
  JOB = <<~RUBY
    class Counted
      include Sidekiq::Worker
      def perform(name, seconds)
        note "b \#{name}"
        sleep seconds
        note "e \#{name}"
      end
    end
  RUBY

  # @param sandbox [Sandbox] an example
  # @param rounds [Integer]
  # @param seed [Integer]
  def initialize(sandbox, rounds, seed)
    @sandbox = sandbox
    @rounds = rounds
    @random = Random.new(seed)
    @pushed = {}
    @duplicates = []
    @recorded = []
    @workers = []
  end

  # The names of jobs that were in their queue twice.
  attr_reader :duplicates

  # The names of all jobs.
  def pushed = @pushed.keys

  def run
    @running = [start]
    @rounds.times { |number| round(number, KINDS[number % KINDS.size]) }
    @running.each { |worker| ready(worker) }
    wait_until(-> { "every job has ended, but not #{in_hand}" }) { queue.empty? && in_hand.empty? }
    @running.each { |worker| worker.signal(:TERM) }
    @running.each(&:exit_code)
    self
  end

  # Jobs that have never ended, and were recorded or in hand when their process was killed, without being put back.
  def lost = never_ended.select { |name| left_behind?(@pushed[name]) || lost_in_hand?(@pushed[name]) }

  # All others that have never ended: their process was killed between Redis' reply and the recorder.
  def in_the_window = never_ended - lost

  def twice = pushed.select { |name| ended(name) > 1 }

  # What was put back more often than once for a kill.
  def put_back_twice
    history.map { |line| line.slice("process", "jid", "started_at") }.tally.select { |_, count| count > 1 }
  end

  private

  # The process that began it last has neither finished nor interrupted it, nor did another put it back after that.
  def lost_in_hand?(jid)
    lines = starts_and_ends.select { |line| line[:jid] == jid }
    last = lines.select { |line| line[:what] == "start" }.max_by { |line| line[:at] } or return false
    lines.none? { |line| line[:pid] == last[:pid] && line[:what] != "start" } &&
      history.none? { |line| line["jid"] == jid && line["process"] == "process #{last[:pid]}" }
  end

  def starts_and_ends
    pattern = /^(?<at>\S+) pid=(?<pid>\d+) .* jid=(?<jid>\h+) .*INFO: (?<what>start|done|fail)$/
    @starts_and_ends ||= @workers.flat_map { |worker| worker.log.lines.filter_map { |line| pattern.match(line) } }
  end

  def history
    lines = @sandbox.redis.call("LRANGE", "sidekiq_lifecycle:lost", 0, -1, database: @sandbox.database)
    lines.map { |line| JSON.parse(line) }
  end

  def never_ended = pushed.select { |name| ended(name).zero? }

  def round(number, kind)
    @running.each { |worker| ready(worker) }
    push(number, kind == :interrupted ? TIMEOUT + 1 : 0.5)
    send(kind)
    names = queue
    @duplicates.concat(names.tally.select { |_, count| count > 1 }.keys)
  end

  def process
    pause(0.15)
    kill(@running)
    @running = [start]
  end

  def group
    pause(0.15)
    kill(@running, group: true)
    @running = [start]
  end

  # Jobs are running at its timeout, which it is about to reach, or has just reached.
  def interrupted
    @running.each { |worker| worker.signal(:TERM) }
    sleep(TIMEOUT - 0.6)
    pause(1.2)
    kill(@running)
    @running = [start]
  end

  # The successor is killed while it boots, or puts jobs back, or has just begun.
  def recovering
    pause(0.1)
    kill(@running)
    successor = start
    wait_until("it boots") { !successor.log.empty? || !successor.running? }
    pause(0.3)
    kill([successor])
    @running = [start]
  end

  def two_recover
    pause(0.1)
    kill(@running)
    @running = [start, start]
  end

  def push(number, longest)
    commands = Array.new(JOBS) do |job|
      name = "#{number}.#{job}"
      length = @random.rand < 0.1 ? longest : @random.rand(0.03)
      @pushed[name] = SecureRandom.hex(12)
      payload = JSON.generate(class: "Counted", args: [name, length.round(4)], jid: @pushed[name], retry: true,
                              queue: "default", created_at: Time.now.to_f, enqueued_at: Time.now.to_f)
      ["LPUSH", "queue:default", payload]
    end
    @sandbox.redis.pipelined(%w[SADD queues default], *commands, database: @sandbox.database)
  end

  def start
    @sandbox.start(install: "lifecycle.recover_jobs = true; lifecycle.recover_limit = 1000", concurrency: THREADS,
                   timeout: TIMEOUT, after: JOB, name: "worker#{@workers.size}").tap { |worker| @workers << worker }
  end

  def ready(worker)
    wait_until("it runs", &-> { worker.log.include?(RUNS) || worker.raise_if_ended })
  end

  def kill(workers, group: false)
    workers.each do |worker|
      Process.kill(:KILL, group ? -worker.pid : worker.pid) if worker.running?
      worker.exit_code
    end
    remember_recorded
  end

  # What the next processes must put back.
  def remember_recorded
    waiting = JSON.parse(@sandbox.command("lost", "--json").last)["jobs"].select { |job| job["outcome"] == "waiting" }
    @recorded |= waiting.map { |job| job.values_at("process", "jid") }
  end

  # It was recorded when a process was killed, and nobody put it back after that.
  def left_behind?(jid)
    put_back = history.map { |line| line.values_at("process", "jid") }
    @recorded.any? { |process, recorded| recorded == jid && !put_back.include?([process, jid]) }
  end

  def pause(at_most) = sleep(@random.rand(at_most))

  def queue
    jobs = @sandbox.redis.call("LRANGE", "queue:default", 0, -1, database: @sandbox.database)
    jobs.map { |job| JSON.parse(job)["args"].first }
  end

  # What the processes that run have begun and not ended.
  def in_hand
    @running.flat_map do |worker|
      worker.log.scan(/jid=(\h+) .*INFO: (start|done|fail)$/).to_h.select { |_, what| what == "start" }.keys
    end
  end

  def ended(name) = tally.fetch("e #{name}", 0)

  def tally
    notes = @sandbox.notes
    return @tally if @notes_size == notes.size

    @notes_size = notes.size
    @tally = notes.tally
  end
end
