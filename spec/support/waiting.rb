# frozen_string_literal: true

# Waiting for what must come. The limit is far beyond what a slow machine needs: it ends a test that has failed.
module Waiting
  LIMIT = 180

  def self.now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  # Returns what the block returned, once that is true.
  def wait_until(what, limit: LIMIT, every: 0.01)
    deadline = Waiting.now + limit
    loop do
      answer = yield
      return answer if answer
      raise "waited #{limit} s in vain: #{what}" if Waiting.now > deadline

      sleep every
    end
  end
end
