# frozen_string_literal: true

require "json"
require_relative "launch_forms"

# A launch form with a program around Sidekiq: the doctor's verdict, from inside and from the host, and what then
# happens.
class Wrapper
  MODES = { "off" => "untouched", "auto" => "with the relay", "run" => "`run` in front" }.freeze
  VERDICTS = { 0 => "safe", 1 => "loses jobs", 3 => "could not tell" }.freeze

  # More than a Sidekiq needs to shut down, however slow the machine.
  STOP_TIMEOUT = 25

  # @return [String] the file with all measurements, one JSON object a line; script/wrappers.rb makes a table of it
  def self.measured = File.join(LaunchedContainer::DIRECTORY, "wrapped")

  attr_reader :form, :mode, :inside, :host, :story

  # @param mode [String] one of {MODES}
  def initialize(form, mode)
    @form = form
    @mode = mode
  end

  def to_s = "#{form}, #{MODES.fetch(mode)}"

  # @return [Boolean] whether each job has ended by itself or is back in the queue
  def saved? = @saved

  # @return [Boolean] whether it was reported as safe
  def safe? = [inside, host].include?("safe")

  def run
    LaunchedContainer.open(launched, install:) do |launch|
      @inside = VERDICTS.fetch(launch.exec("sidekiq-lifecycle", "doctor").first)
      @host = VERDICTS.fetch(launch.examine_from_host.first)
      launch.stop(STOP_TIMEOUT)
      launch.exit_code
      @saved = launch.nothing_lost?
      @story = launch.story
    end
    line = { form: form.name, mode:, inside:, host:, happened: saved? ? "saved" : "lost" }
    File.write(Wrapper.measured, "#{JSON.generate(line)}\n", mode: "a")
    self
  end

  private

  def install
    "lifecycle.signal_relay = :#{mode == "auto" ? :auto : :off}; lifecycle.stop_timeout = #{STOP_TIMEOUT}"
  end

  def launched
    return form unless mode == "run"

    LaunchForm.new(**form.to_h, command: [*LaunchForm::RUN.split, "--", *form.command])
  end
end
