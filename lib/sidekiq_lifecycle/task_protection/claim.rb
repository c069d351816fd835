# frozen_string_literal: true

module SidekiqLifecycle
  class TaskProtection
    # What a Sidekiq holds while it wants its task protected. The task has one protection, and may have several
    # Sidekiqs (a swarm's children): only the last to leave may end it.
    #
    # It is a shared flock(2) on the lifecycle directory, so nothing is written, and the kernel takes it from whoever
    # dies. (The core locks `processes` in there, never the directory itself.) Sidekiqs that share no directory do not
    # see each other.
    #
    # @api private
    class Claim
      def initialize(directory)
        @directory = directory
      end

      # Waits while another one, which found itself alone, ends the protection.
      def take
        lock(File::LOCK_SH)
      end

      # Leaves, and calls the block if nobody else has a claim; nobody can take one before the block is through.
      # Where nobody can know (no such directory, a file system without locks) the protection is left to run out.
      #
      # @return what the block returned, or nil
      def leave
        yield if lock(File::LOCK_EX | File::LOCK_NB)
      ensure
        unlock
      end

      private

      # @return [Integer, false] false: others have it, or nobody can know
      def lock(how)
        @file ||= File.open(@directory)
        @file.flock(how)
      rescue SystemCallError
        false
      end

      # By name: a child that a job has forked meanwhile has the file as well.
      def unlock
        lock(File::LOCK_UN) if @file
        @file&.close
        @file = nil
      end
    end
  end
end
