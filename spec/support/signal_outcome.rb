# frozen_string_literal: true

require "json"
require_relative "launched_container"

# What happened to a Sidekiq, launched in one form, and to its jobs, when its container got a signal.
class SignalOutcome
  # More seconds than a Sidekiq needs to shut down (`-t 5`), however slow the machine; and enough to see that it does
  # not.
  GENEROUS = 60
  BRIEF = 10

  # The file with all measurements, one JSON object a line; script/launch_forms.rb makes a table of it.
  MEASURED = File.join(LaunchedContainer::DIRECTORY, "measured")

  attr_reader :exit_code, :heard, :story

  # @param relay [Symbol] as `lifecycle.signal_relay`
  # @param expected [Boolean] whether a proper shutdown is expected, so that waiting for it makes sense
  def initialize(form, relay, expected:)
    @form = form
    @relay = relay
    @expected = expected
  end

  # `docker stop`
  def stop
    measure("TERM") do |launch|
      launch.stop(@expected ? GENEROUS : BRIEF)
      finish(launch)
      ending = ", exit #{exit_code}" unless exit_code.zero?
      "#{saved? ? "done" : "lost"}#{ending}"
    end
  end

  # `docker kill -s TSTP`, and `docker stop` once it is quiet.
  def quiet
    measure("TSTP") do |launch|
      launch.signal("TSTP")
      next launch.frozen? ? "frozen" : "lost" unless quieted?(launch)

      launch.push("Late")
      next "quiet, frozen" if launch.frozen?

      launch.stop(GENEROUS)
      finish(launch)
      @untouched = launch.queued.include?("Late")
      "quiet"
    end
  end

  # @return [String] in a word or two
  attr_reader :result

  # @return [Boolean] whether each job has ended by itself or is back in the queue
  def saved? = @saved

  # @return [Boolean] whether a job pushed after it was quiet stayed in the queue
  def untouched? = @untouched

  private

  def measure(signal)
    LaunchedContainer.open(@form, install: "lifecycle.signal_relay = #{@relay.inspect}") do |launch|
      @result = yield launch
      @story = launch.story
    end
    line = { form: @form.name, sidekiq: Sandbox::MAJOR, relay: @relay, signal:, result: }
    File.write(MEASURED, "#{JSON.generate(line)}\n", mode: "a")
    self
  end

  def quieted?(launch)
    return launch.await("quiet") { launch.short_ended? } if @expected

    sleep 3
    launch.short_ended?
  end

  def finish(launch)
    @exit_code = launch.exit_code
    @heard = launch.heard("TERM")
    @saved = launch.nothing_lost?
  end
end
