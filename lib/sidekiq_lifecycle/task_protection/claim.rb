# frozen_string_literal: true

module SidekiqLifecycle
  class TaskProtection
    # The claim of one Sidekiq to the protection of its task. A task has one protection, and may have several Sidekiqs
    # (the children of a swarm). Only the last one to leave may release it.
    #
    # A claim is a shared flock(2) on the lifecycle directory, so nothing is written, and the kernel releases it when
    # the process dies. (The core locks `processes` in there, never the directory itself.) Sidekiqs that share no
    # directory do not see each other. The core takes the lock without waiting, because a thread blocked by a disk would
    # keep Ruby from exiting.
    #
    # @api private
    class Claim
      # Seconds to wait for another process that releases the protection: longer than the agent may take
      # ({Agent::TOTAL}). Anyone who may read the directory can hold the lock longer; the task is protected all the
      # same.
      PATIENCE = 8

      # Seconds between two attempts.
      PAUSE = 0.05

      def initialize(directory)
        @native = Native::Claim.new(directory)
      end

      # Waits while another process, the last one with a claim, releases the protection, up to {PATIENCE}.
      def take
        deadline = now + PATIENCE
        sleep PAUSE while @native.take == false && now < deadline
      end

      # Leaves, and calls the block if no other process has a claim. None can take one until the block has returned. If
      # this is unknown (no such directory, a file system without locks), the protection is left to expire.
      #
      # @return the result of the block, or nil
      def leave
        yield if @native.alone?
      ensure
        @native.leave
      end

      private

      def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
