# frozen_string_literal: true

# Waits for events. The limit is far beyond what a slow machine needs; only a failed test reaches it.
module Waiting
  LIMIT = 180

  # A pause is this part of what has been waited, so that many who wait leave the processors to what they wait for.
  PATIENCE = 0.05
  # Seconds of the longest pause.
  LONGEST = 0.2

  def self.now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  # Waits until the block returns something true, and returns that. What is waited for may be a proc, whose result then
  # shows what there was in the end. The first pauses last `every` seconds.
  def wait_until(what, limit: LIMIT, every: 0.01)
    started = Waiting.now
    loop do
      answer = yield
      return answer if answer

      waited = Waiting.now - started
      raise "waited #{limit} s in vain: #{what.respond_to?(:call) ? what.call : what}" if waited > limit

      sleep (waited * PATIENCE).clamp(every, [every, LONGEST].max)
    end
  end
end
