# frozen_string_literal: true

require_relative "sidekiq_compat"

module SidekiqLifecycle
  # Modules prepended to Sidekiq's classes. They report to {SidekiqAdapter} what Sidekiq's own lifecycle events do not.
  # The methods exist in every Sidekiq from 6.4 to 8.1 unless a comment says otherwise. A method that a later Sidekiq no
  # longer calls is simply never called here either.
  #
  # @api private
  module SidekiqPatches
    # @return [void]
    def self.install
      require "sidekiq/launcher"
      ::Sidekiq::Launcher.prepend(Launcher)
      ::Sidekiq::Manager.prepend(Manager)
      ::Sidekiq::Processor.prepend(Processor)
      ::Sidekiq::BasicFetch.prepend(BasicFetch)
      ::Sidekiq::Scheduled::Poller.prepend(Poller)
      ::Sidekiq::CLI.prepend(CLI) if defined?(::Sidekiq::CLI)
      ::Sidekiq::Embedded.prepend(Embedded) if defined?(::Sidekiq::Embedded)
    end

    # Sidekiq::CLI
    module CLI
      # If the application was loaded earlier, this is the first sign that the process is a Sidekiq.
      def run(...)
        SidekiqAdapter.handle(:cli_run)
        super
      end

      # Sidekiq's traps write to a pipe. Its main loop, which starts here, reads from it.
      def launch(pipe)
        SidekiqAdapter.handle(:cli_launch, pipe.extend(SidekiqCompat::SignalPipe))
        super
      end

      # Runs before Sidekiq logs the signal.
      def handle_signal(signal)
        SidekiqAdapter.handle(:quiet_or_stop_requested) if SignalTraps::SIGNALS.include?("SIG#{signal}")
        super
      end
    end

    # Sidekiq::Embedded (7.0.0 and later)
    module Embedded
      # The host program may have loaded `sidekiq/cli` as well.
      def run(...)
        SidekiqAdapter.handle(:embedded_run)
        super
      end
    end

    # The classes that fire Sidekiq's lifecycle events: the launcher, in 6.x the manager.
    module Hooks
      # The events of the end of a process. Sidekiq waits for their hooks.
      ENDING = %i[quiet shutdown exit].freeze

      # The time that the application's own hooks take here is part of the stop timeout.
      def fire_event(event, ...)
        return super unless ENDING.include?(event)

        SidekiqAdapter.handle(:hooks_started, event)
        super.tap { SidekiqAdapter.handle(:hooks_finished) }
      end
    end

    # Sidekiq::Launcher
    module Launcher
      include Hooks

      # Sidekiq fires `:startup` before any thread exists, and an application's own `:startup` hook may come after ours,
      # take long, or fail. The process is ready once all of them have returned.
      def run(...)
        super.tap { SidekiqAdapter.handle(:launched, self) }
      end

      # When this returns, the scheduler's thread has ended as well. 6.x fires `:quiet` before that.
      def quiet(...)
        SidekiqAdapter.handle(:quiet_or_stop_requested)
        super.tap { SidekiqAdapter.handle(:fetching_ended) }
      end

      # If Sidekiq is embedded, the process lives on. Otherwise `at_exit` is next.
      def stop(...)
        SidekiqAdapter.handle(:quiet_or_stop_requested)
        super.tap { SidekiqAdapter.handle(*(@embedded ? [:embedded_stopped] : %i[hooks_started at_exit])) }
      end

      private

      # Every heartbeat passes here, even if Redis is down. `:beat` fires only if Redis answered, and does not exist
      # before 6.5.2.
      def ❤(...) # rubocop:disable Naming/AsciiIdentifiers, Naming/MethodName
        SidekiqAdapter.handle(:beat)
        started = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC)
        super.tap do |result|
          took = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC) - started
          SidekiqAdapter.handle(:beat_finished, identity, result, took)
        end
      end

      # Sidekiq's last message to Redis. It returns nil if Redis did not answer.
      def clear_heartbeat(...)
        super.tap { |result| SidekiqAdapter.handle(:heartbeat_cleared, identity) if result }
      end
    end

    # Sidekiq::Processor
    module Processor
      private

      # The application's own code for a job runs inside of this.
      def dispatch(job, queue, *)
        SidekiqAdapter.handle(:job_started, job, queue)
        super
      ensure
        SidekiqAdapter.handle(:job_finished, job)
      end
    end

    # Sidekiq::Manager
    module Manager
      include Hooks

      # The last thing a processor does. Its job has been acknowledged or requeued, or its retry has been pushed.
      SidekiqCompat::PROCESSOR_ENDS.each do |name|
        define_method(name) do |*details|
          SidekiqAdapter.handle(:processor_ending, *details)
          super(*details).tap { SidekiqAdapter.handle(:processor_ended, self) }
        end
      end

      private

      # Sidekiq's shutdown timeout has passed and jobs are still running.
      def hard_shutdown(...)
        SidekiqAdapter.handle(:jobs_interrupted, self)
        @lifecycle_deadline = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC) + BulkRequeue::PATIENCE
        super
      end

      # Sidekiq gives its threads 3 s to end once their jobs are pushed back. If pushing back had to wait for Redis, the
      # threads get that much less, because the platform's SIGKILL comes at a fixed time.
      def wait_for(deadline, ...) = super([deadline, @lifecycle_deadline].compact.min, ...)
    end

    # Sidekiq::BasicFetch. Other fetch classes (`super_fetch`) keep jobs safe in their own way.
    module BasicFetch
      # If our own attempt fails because of a bug in this gem, Sidekiq's own still runs.
      def bulk_requeue(jobs, *)
        super unless jobs.any? && SidekiqAdapter.handle(:push_back, jobs) == :done
      end
    end

    # Sidekiq::Scheduled::Poller
    module Poller
      # Joins the scheduler's thread, and raises the exception that ended it, however long ago. That left Sidekiq's
      # `quiet` and `stop` half done (`launcher.rb`), and the process ended before it had pushed jobs back.
      def terminate(...)
        super
      rescue StandardError, ScriptError => e
        SidekiqAdapter.handle(:scheduler_died, e)
      end

      private

      # From 6.5.0 on this ends with a call to Redis (`cleanup`), the only one in the scheduler that rescues no errors.
      # A Redis outage at that moment ended the scheduler for good. The error is handled like those of its other calls.
      def initial_wait(...)
        super
      rescue StandardError => e
        handle_exception(e, { context: "scheduler" })
      end
    end
  end
end
