# frozen_string_literal: true

require_relative "launch"

# A container that gets signals at random: in which form it is launched, when they come, how many and which. The seed
# of the run and the number decide everything.
class Round
  include Waiting

  SIGNALS = %w[TERM INT TSTP TTIN].freeze

  # Some end at once, some within Sidekiq's timeout, some never.
  SECONDS = [0, 0, 0.5, 1, 2, 4, 60, 60].freeze

  # @return [Array<String>] what went wrong
  attr_reader :problems
  attr_reader :story

  def initialize(number, seed)
    random = Random.new((seed * 1000) + number)
    @number = number
    @form = (Form.all + Form.with_run).sample(random:)
    @moment = %w[boot readiness drain].sample(random:)
    @delay = random.rand * (@moment == "drain" ? 5 : 1.5)
    @signals = Array.new(random.rand(1..4)) { [allowed.sample(random:), random.rand * [0.02, 1].sample(random:)] }
    @problems = []
  end

  def to_s
    signals = @signals.map { |name, pause| "#{name}, #{pause.round(3)} s" }.join(", ")
    "round #{@number}: #{@form}: #{@delay.round(3)} s after the beginning of its #{@moment}: #{signals}"
  end

  def run
    Launch.prepared(@form) do |launch|
      @pushed = (SECONDS * @form.sidekiqs).map { |seconds| launch.push("Timed", seconds) }
      launch.boot
      shoot(launch)
      finish(launch)
      look(launch)
      @story = launch.story
    end
    self
  end

  private

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

  # A signal that comes before the relay is there is lost on a shell that is PID 1, and a TSTP stops another one. So
  # TERM is sent again; not every second, for a trap that takes a second would start anew each time, and never end.
  def finish(launch)
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
    @problems << "lost: #{lost.join(" ")}" if lost.any?
    @problems << "ready was left behind" if launch.ready?
    @problems += launch.records.reject { |record| record["state"] == "stopped" }
                       .map { |record| "process #{record["pid"]} is called #{record["state"]}" }
  end
end
