# frozen_string_literal: true

module SidekiqLifecycle
  class TaskProtection
    # What a Sidekiq holds while it wants its task protected. The task has one protection, and may have several
    # Sidekiqs (a swarm's children): only the last to leave may end it.
    #
    # It is a shared flock(2) on the lifecycle directory, so nothing is written, and the kernel takes it from whoever
    # dies. (The core locks `processes` in there, never the directory itself.) Sidekiqs that share no directory do not
    # see each other. The core takes it, without waiting: a thread that a disk holds would keep Ruby from its end.
    #
    # @api private
    class Claim
      # Seconds for which another one, which found itself alone, is left to end the protection: longer than the agent
      # may take ({Agent::TOTAL}). Anybody who may read the directory can hold it longer; that keeps nobody unprotected.
      PATIENCE = 8

      # Seconds between two attempts.
      PAUSE = 0.05

      def initialize(directory)
        @native = Native::Claim.new(directory)
      end

      # Waits while another one, which found itself alone, ends the protection, but not for ever.
      def take
        deadline = now + PATIENCE
        sleep PAUSE while @native.take == false && now < deadline
      end

      # Leaves, and calls the block if nobody else has a claim; nobody can take one before the block is through.
      # Where nobody can know (no such directory, a file system without locks) the protection is left to run out.
      #
      # @return what the block returned, or nil
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
