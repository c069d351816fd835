# frozen_string_literal: true

require_relative "error"

module SidekiqLifecycle
  module Generate
    # The times that a platform is told, all of them made from the application's `-t`, in seconds.
    #
    # @api private
    class Plan
      # What Sidekiq takes for itself after its timeout, to push back what it has cut off (`launcher.rb` and
      # `manager.rb`; the doctor counts with the same).
      OWN = 4
      # ECS on Fargate stops no later than this (its `stopTimeout`).
      ECS_MOST = 120

      # systemd's `WatchdogSec`: longer than a Redis that hangs can silence Sidekiq's heartbeat, with the timeouts that
      # Sidekiq sets by itself (30 s by the sum of them, 20 s as measured), and as long as `live` is patient.
      WATCHDOG = 60

      # @return [Integer] Sidekiq's `-t`
      attr_reader :timeout

      # @param timeout [Integer]
      def initialize(timeout)
        @timeout = timeout
      end

      # @return [Integer] the least that a stop may take before the platform kills
      def least = timeout + OWN

      # @return [Integer] the same, and a little to spare, rounded up to 5
      def stop = round(least)

      # @return [Integer] how long Kubernetes' preStop waits for jobs before Sidekiq's own timeout begins: as long again
      def drain = timeout

      # @return [Integer] what covers both, and a little to spare
      def drain_and_stop = round(drain + least)

      # @return [Integer] ECS's `stopTimeout`
      # @raise [Error] if it does not fit
      def ecs_stop
        return stop if stop <= ECS_MOST

        raise Error, "-t #{timeout} and Sidekiq's own #{OWN} s do not fit into the #{ECS_MOST} s that ECS leaves a " \
                     "task on Fargate between SIGTERM and SIGKILL: set -t to at most #{ECS_MOST - OWN - 1}, and for " \
                     "longer jobs lifecycle.ecs_task_protection = true (docs/ecs-task-protection.md)"
      end

      private

      # With a second or more to spare.
      def round(seconds) = ((seconds + 1) / 5.0).ceil * 5
    end
  end
end
