# frozen_string_literal: true

require_relative "launched_container"

# A container that gets signals at random: in which form it is launched, when they come, how many and which, and whether
# something is killed at last. The seed of the run and the number decide everything.
class RandomSignals
  include Waiting

  SIGNALS = %w[TERM INT TSTP TTIN].freeze

  # Some end at once, some within Sidekiq's timeout, some never.
  SECONDS = [0, 0, 0.5, 1, 2, 4, 60, 60].freeze

  # What befalls it after the signals: the container is killed, the relay, a shell between; or the relay is stopped.
  BLOWS = [nil, nil, nil, "the container", "the relay", "a shell", "STOP to the relay"].freeze

  # With `-t 120` and jobs of a minute, a container that is there so long after its kill waits for somebody.
  TIMEOUT = 120
  LIMIT = 30

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
      shoot(launch)
      strike(launch)
      @blow == "the container" ? finish_killed(launch) : finish(launch)
      look(launch)
      @story = launch.story
    end
    self
  end

  private

  def blow = @blow && (@blow.start_with?("STOP") ? @blow : "KILL to #{@blow}")

  # A ksh that has heard an INT kills itself with it at its end, and then waits for its death; as PID 1 for ever
  # (fault.c, `sh_done`).
  def allowed = @form.name.include?("ksh") ? SIGNALS - ["INT"] : SIGNALS

  def shoot(launch)
    launch.await("ready") { launch.ready? } unless @moment == "boot"
    send_signal(launch, "TERM") if @moment == "drain"
    sleep @delay
    @signals.each do |name, pause|
      send_signal(launch, name)
      sleep pause
    end
    @is_early = launch.records.size < @form.sidekiqs
  end

  # Its processes may have ended meanwhile, or it.
  def strike(launch)
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

  # Without a relay a TERM may come to nothing: then the platform kills it.
  def finish(launch)
    return send_signals_until_end(launch) unless @blow == "the relay"

    launch.stop(SignalOutcome::GENEROUS)
    launch.exit_code
  rescue RuntimeError
    raise if launch.running?
  end

  # A signal that comes before the relay is there is lost on a shell that is PID 1, and a TSTP stops another one. So
  # TERM is sent again; not every second, for a trap that takes a second would start anew each time, and never end.
  def send_signals_until_end(launch)
    signals = [*("CONT" if @is_early), "TERM"]
    zombies = []
    seconds = 0
    wait_until("the end of #{self}", limit: 90, every: 1) do
      signals.each { |name| send_signal(launch, name) } if (seconds % 3).zero?
      seconds += 1
      before = zombies
      zombies = launch.zombies
      @problems |= (before & zombies).map { |zombie| "a zombie: #{zombie}" }
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

  def look(launch)
    lost = @pushed - launch.accounted_for
    @problems << "lost: #{lost.join(" ")}" if lost.size > losses_allowed
    killed? ? look_from_outside(launch) : look_at_files(launch)
  end

  # Whether something may have been killed with the jobs that it had in hand, as without the gem.
  def killed? = ["the container", "the relay", "a shell"].include?(@blow)

  # `-c 2`
  def losses_allowed = killed? ? 2 * @form.sidekiqs : 0

  def look_at_files(launch)
    @problems << "ready was left behind" if launch.ready?
    @problems += launch.records.reject { |record| record["state"] == "stopped" }
                       .map { |record| "process #{record["pid"]} is called #{record["state"]}" }
  end

  # Who was killed leaves his files behind as they were; whoever asks is not told that he is there.
  def look_from_outside(launch)
    %w[ready live].each do |probe|
      code, words = launch.check_from_outside(probe)
      @problems << "check #{probe}: #{code}, #{words}" unless code == 1
    end
  end
end
