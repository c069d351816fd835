# frozen_string_literal: true

module SidekiqLifecycle
  # What Sidekiq's lifecycle events do not tell, heard where it happens. The methods exist in every Sidekiq from 6.4
  # to 8.1 unless said otherwise; one that a later Sidekiq has no more is passed over.
  #
  # @api private
  module Taps
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
      # Where the application was loaded before, this is where the process turns out to be a Sidekiq.
      def run(...)
        SidekiqLifecycle.hear(:boot)
        super
      end

      # Sidekiq's traps write to a pipe, and its main loop, which begins here, reads from it.
      def launch(pipe)
        SidekiqLifecycle.hear(:launching, pipe.extend(SignalPipe))
        super
      end

      # Before Sidekiq logs what it was told.
      def handle_signal(signal)
        SidekiqLifecycle.hear(:parting) if Traps::SIGNALS.include?("SIG#{signal}")
        super
      end
    end

    # Sidekiq::Embedded (7 and later)
    module Embedded
      # The program around it may have loaded `sidekiq/cli` as well.
      def run(...)
        SidekiqLifecycle.hear(:embedded)
        super
      end
    end

    # What Sidekiq reads its signals from.
    module SignalPipe
      # Sidekiq 6.4 goes on reading from what this returns. Where several signals came at once Ruby returns true, and
      # Sidekiq ended with a NoMethodError, its jobs lost.
      def wait_readable(...) = super && self
    end

    # Who fires Sidekiq's lifecycle events: the launcher, in 6.x the manager.
    module Hooks
      # Those by which it ends, and that it waits for.
      PARTING = %i[quiet shutdown exit].freeze

      # What the application has hooked to one of these takes time that the platform has to leave.
      def fire_event(event, ...)
        return super unless PARTING.include?(event)

        SidekiqLifecycle.hear(:hooks_begin, event)
        super.tap { SidekiqLifecycle.hear(:hooks_end) }
      end
    end

    # Sidekiq::Launcher
    module Launcher
      include Hooks

      # `:startup` is fired before any thread exists, and an application's own `:startup` hook may come after ours,
      # take long, or fail. Ready is who has come through all that.
      def run(...)
        super.tap { SidekiqLifecycle.hear(:started, self) }
      end

      # When this returns the scheduler's thread has ended as well. In 6.x `:quiet` is fired before that.
      def quiet(...)
        SidekiqLifecycle.hear(:parting)
        super.tap { SidekiqLifecycle.hear(:quieted) }
      end

      # Embedded, the process lives on when Sidekiq has ended. Otherwise `at_exit` is next.
      def stop(...)
        SidekiqLifecycle.hear(:parting)
        super.tap { @embedded ? SidekiqLifecycle.hear(:ended) : SidekiqLifecycle.hear(:hooks_begin, :at_exit) }
      end

      private

      # Every beat comes through here, also one that finds Redis gone: `:beat` is fired only if Redis answered, and
      # 6.4 has no such event at all.
      def ❤(...) # rubocop:disable Naming/AsciiIdentifiers, Naming/MethodName
        SidekiqLifecycle.hear(:beat)
        began = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC)
        super.tap do |result|
          took = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC) - began
          SidekiqLifecycle.hear(:beaten, identity, result, took)
        end
      end

      # Sidekiq's last word to Redis. Where that failed it returns nil.
      def clear_heartbeat(...)
        super.tap { |result| SidekiqLifecycle.hear(:last_word, identity) if result }
      end
    end

    # Sidekiq::Processor
    module Processor
      private

      # Between these a job is the application's.
      def dispatch(job, ...)
        SidekiqLifecycle.hear(:job_begins, job)
        super
      ensure
        SidekiqLifecycle.hear(:job_ends, job)
      end
    end

    # Sidekiq::Manager
    module Manager
      include Hooks

      # A processor's last act: its job is acknowledged, requeued, or its retry pushed. 6.5 and later have the first;
      # 6.4 has the others, of which the last follows a job that raised.
      %i[processor_result processor_stopped processor_died].each do |name|
        define_method(name) do |*ending|
          SidekiqLifecycle.hear(:processor_ends, *ending)
          super(*ending).tap { SidekiqLifecycle.hear(:processor_ended, self) }
        end
      end

      private

      # Sidekiq's timeout has passed with jobs still running.
      def hard_shutdown(...)
        SidekiqLifecycle.hear(:cut_off, self)
        @lifecycle_end = ::Process.clock_gettime(::Process::CLOCK_MONOTONIC) + PushBack::PATIENCE
        super
      end

      # Sidekiq gives its threads 3 s to end, from when their jobs are pushed back. Where that had to wait for Redis
      # they have as much less: the platform's SIGKILL waits for nobody.
      def wait_for(deadline, ...) = super([deadline, @lifecycle_end].compact.min, ...)
    end

    # Sidekiq::BasicFetch. Another fetch (`super_fetch`) has its own way to keep jobs.
    module BasicFetch
      # Sidekiq's own try, if ours fails by a fault of ours.
      def bulk_requeue(jobs, *)
        super unless jobs.any? && SidekiqLifecycle.hear(:push_back, jobs) == :done
      end
    end

    # Sidekiq::Scheduled::Poller
    module Poller
      # Raises what the scheduler's thread has ended by, however long ago. That left Sidekiq's `quiet` and `stop` in the
      # middle (`launcher.rb`), and ended the process before a job was pushed back.
      def terminate(...)
        super
      rescue StandardError, ScriptError => e
        SidekiqLifecycle.hear(:scheduler_died, e)
      end

      private

      # From 6.5 on this ends with a look at Redis (`cleanup`), the only one of the scheduler's whose errors nobody
      # rescues: a Redis that was away then ended it for good. They are told as those of its other looks are.
      def initial_wait(...)
        super
      rescue StandardError => e
        handle_exception(e, { context: "scheduler" })
      end
    end
  end
end
