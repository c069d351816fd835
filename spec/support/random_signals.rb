# frozen_string_literal: true

require_relative "launched_container"

# A container that gets random signals. The seed of the run and the number decide its launch form, which signals it
# gets, how many and when, and whether something is killed at the end.
class RandomSignals
  include Waiting

  SIGNALS = %w[TERM INT TSTP TTIN].freeze

  # Some jobs end at once, some within Sidekiq's shutdown timeout, some never.
  SECONDS = [0, 0, 0.5, 1, 2, 4, 60, 60].freeze

  # What happens after the signals: the container, the relay or a shell is killed, or the relay is suspended.
  BLOWS = [nil, nil, nil, "the container", "the relay", "a shell", "STOP to the relay"].freeze

  # With `-t 120` and jobs of a minute, a container that exists for so long after its kill waits for something.
  TIMEOUT = 120
  LIMIT = 100

  # @return [Array<String>] what went wrong
  attr_reader :problems
  attr_reader :story

  def initialize(number, seed)
    random = Random.new((seed * 1000) + number)
    @number = number
    @form = (LaunchForm.all + LaunchForm.with_run).sample(random:)
    @moment = %w[boot readiness drain].sample(random:)
    @delay = random.rand * (@moment == "drain" ? 5 : 1.5)
    @signals = Array.new(random.rand(1..4)) { [allowed.sample(random:), random.rand * [0.02, 1].sample(random:)] }
    @blow = BLOWS.sample(random:)
    @form = @form.with_timeout(TIMEOUT) if @blow == "the container"
    @problems = []
  end

  def to_s
    signals = @signals.map { |name, pause| "#{name}, #{pause.round(3)} s" }.join(", ")
    happens = [signals, blow].compact.join("; ")
    "round #{@number}: #{@form}: #{@delay.round(3)} s after the beginning of its #{@moment}: #{happens}"
  end

  def run
    LaunchedContainer.prepared(@form) do |launch|
      @pushed = (SECONDS * @form.sidekiqs).map { |seconds| launch.push("Timed", seconds) }
      launch.boot
      send_signals(launch)
      deliver_blow(launch)
      @blow == "the container" ? finish_killed(launch) : finish(launch)
      examine(launch)
      @story = launch.story
    end
    self
  end

  private

  def blow = @blow && (@blow.start_with?("STOP") ? @blow : "KILL to #{@blow}")

  # A ksh that has got an INT kills itself with it at its end, and then waits for its death; as PID 1 forever (fault.c,
  # `sh_done`).
  def allowed = @form.name.include?("ksh") ? SIGNALS - ["INT"] : SIGNALS

  def send_signals(launch)
    launch.await("ready") { launch.ready? && launch.records.none? { late?(_1) } } unless @moment == "boot"
    send_signal(launch, "TERM") if @moment == "drain"
    sleep @delay
    @signals.each do |name, pause|
      send_signal(launch, name)
      sleep pause
    end
    @is_early = launch.records.size < @form.sidekiqs
  end

  # On a busy machine the relay may start after Sidekiq.
  def late?(record) = record["signal_path"].nil? || Sandbox.relay_late?(record)

  # The container or its processes may have ended meanwhile.
  def deliver_blow(launch)
    case @blow
    when "the container" then send_signal(launch, "KILL")
    when "the relay" then send_inside(launch, "KILL", launch.relays)
    when "a shell" then send_inside(launch, "KILL", shells(launch))
    when "STOP to the relay" then send_inside(launch, "STOP", launch.relays)
    end
  rescue RuntimeError
    raise if launch.running?
  end

  # The processes right above the Sidekiqs. (PID 1 cannot be killed from inside.)
  def shells(launch)
    launch.records.filter_map do |record|
      launch.exec("cat", "/proc/#{record["pid"]}/status").last[/^PPid:\t(\d+)/, 1]&.to_i
    end.uniq - [0, 1]
  end

  def send_inside(launch, signal, pids)
    launch.exec("kill", "-#{signal}", *pids.map(&:to_s)) if pids.any?
  end

  def finish_killed(launch)
    wait_until("the container that was killed is gone", limit: LIMIT, every: 0.05) { !launch.running? }
    launch.exit_code
  end

  # Without a relay a TERM may be lost. Then the platform kills the container.
  def finish(launch)
    return send_signals_until_end(launch) unless @blow == "the relay"

    launch.stop(SignalOutcome::GENEROUS)
    launch.exit_code
  rescue RuntimeError
    raise if launch.running?
  end

  # Before the relay has started, a shell that is PID 1 drops a signal, and a TSTP suspends another shell. So TERM is
  # sent again, but not every second, because a trap that takes a second would start again each time and never end.
  def send_signals_until_end(launch)
    signals = [*("CONT" if @is_early), "TERM"]
    zombies = {}
    seconds = 0
    wait_until("the end of #{self}", limit: 240, every: 1) do
      signals.each { |name| send_signal(launch, name) } if (seconds % 3).zero?
      seconds += 1
      # A busy machine may take a while to reap one.
      zombies = launch.zombies.to_h { |zombie| [zombie, zombies.fetch(zombie, 0) + 1] }
      @problems |= zombies.filter_map { |zombie, times| "a zombie: #{zombie}" if times > 5 }
      !launch.running?
    end
    launch.exit_code
  end

  # It may have ended meanwhile.
  def send_signal(launch, name)
    launch.signal(name)
  rescue RuntimeError
    raise if launch.running?
  end

  def examine(launch)
    lost = @pushed - launch.accounted_for
    @problems << "lost: #{lost.join(" ")}" if lost.size > losses_allowed
    killed? ? look_from_outside(launch) : look_at_files(launch)
  end

  # Whether running jobs may have been killed, as without the gem.
  def killed? = ["the container", "the relay", "a shell"].include?(@blow)

  # `-c 2`
  def losses_allowed = killed? ? 2 * @form.sidekiqs : 0

  def look_at_files(launch)
    @problems << "ready was left behind" if launch.ready?
    @problems += launch.records.reject { |record| record["state"] == "stopped" }
                       .map { |record| "process #{record["pid"]} is called #{record["state"]}" }
  end

  # A killed process leaves its files behind as they were, but no check may say that it is still there.
  def look_from_outside(launch)
    %w[ready live].each do |probe|
      code, words = launch.check_from_outside(probe)
      @problems << "check #{probe}: #{code}, #{words}" unless code == 1
    end
  end
end
