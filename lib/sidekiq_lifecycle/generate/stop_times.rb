# frozen_string_literal: true

require_relative "../native_extension"
require_relative "error"

module SidekiqLifecycle
  module Generate
    # The times for a platform's files in seconds, all of them derived from the application's `-t`.
    #
    # @api private
    class StopTimes
      # Seconds that Sidekiq takes after its shutdown timeout, to push jobs back (`launcher.rb` and `manager.rb`). The
      # doctor uses the same.
      SHUTDOWN_OVERHEAD = Native::SHUTDOWN_OVERHEAD.ceil
      # The longest `stopTimeout` on ECS with Fargate.
      ECS_MOST = 120

      # systemd's `WatchdogSec`. A hanging Redis can block Sidekiq's heartbeat for less than that with Sidekiq's default
      # timeouts (30 s by their sum, 20 s as measured). It is also the age at which `live` calls a heartbeat too old.
      WATCHDOG = Native::MAX_BEAT_AGE

      # @return [Integer] Sidekiq's `-t`
      attr_reader :timeout

      # @param timeout [Integer]
      def initialize(timeout)
        @timeout = timeout
      end

      # @return [Integer] the shortest stop timeout that suffices
      def least = timeout + SHUTDOWN_OVERHEAD

      # @return [Integer] the same with a margin, rounded up to 5
      def stop = round(least)

      # @return [Integer] how long Kubernetes' preStop waits for jobs before Sidekiq's shutdown timeout starts
      def drain = timeout

      # @return [Integer] both together with a margin
      def drain_and_stop = round(drain + least)

      # @return [Integer] ECS's `stopTimeout`
      # @raise [Error] if it does not fit
      def ecs_stop
        return stop if stop <= ECS_MOST

        raise Error, "-t #{timeout} and Sidekiq's own #{SHUTDOWN_OVERHEAD} s do not fit into the #{ECS_MOST} s that " \
                     "ECS leaves a task on Fargate between SIGTERM and SIGKILL: set -t to at most " \
                     "#{ECS_MOST - SHUTDOWN_OVERHEAD - 1}, and for longer jobs lifecycle.ecs_task_protection = true " \
                     "(docs/ecs-task-protection.md)"
      end

      private

      # Leaves a margin of one second or more.
      def round(seconds) = ((seconds + 1) / 5.0).ceil * 5
    end
  end
end
