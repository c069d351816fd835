# frozen_string_literal: true

# Waits for events. The limit is far beyond what a slow machine needs; only a failed test reaches it.
module Waiting
  LIMIT = 180

  def self.now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  # Waits until the block returns something true, and returns that. What is waited for may be a proc, whose result then
  # shows what there was in the end.
  def wait_until(what, limit: LIMIT, every: 0.01)
    deadline = Waiting.now + limit
    loop do
      answer = yield
      return answer if answer
      raise "waited #{limit} s in vain: #{what.respond_to?(:call) ? what.call : what}" if Waiting.now > deadline

      sleep every
    end
  end
end
