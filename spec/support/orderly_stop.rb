# frozen_string_literal: true

require_relative "launched_container"

# How a Sidekiq, launched in one form, ends when its container is stopped: its signals, its jobs and the exit code.
class OrderlyStop
  # Far more than any of them needs, so that none is killed.
  STOP_TIMEOUT = 170

  attr_reader :story

  def initialize(form, relay)
    @form = form
    @relay = relay
  end

  def run
    LaunchedContainer.prepared(@form, install: "lifecycle.signal_relay = #{@relay.inspect}") do |launch|
      launch.boot
      @form.drains ? launch.occupy(["Short", 7]) : launch.occupy
      launch.stop(STOP_TIMEOUT)
      @seen = { exit_code: exit_code(launch), signals: launch.signals, short_ended: launch.short_ended?,
                queued: launch.queued }
      @story = launch.story
    end
    self
  end

  # @return [Hash] what the spec compares
  attr_reader :seen

  # Whether no job was interrupted or lost.
  def orderly?
    seen.values_at(:exit_code, :short_ended, :queued) == [@form.untouched, true, @form.drains ? [] : ["Long"]]
  end

  private

  # Not compared where only the shell decides it.
  def exit_code(launch) = launch.exit_code.then { |code| code if @form.untouched }
end
