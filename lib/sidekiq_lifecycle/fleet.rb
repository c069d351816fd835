# frozen_string_literal: true

require "time"
require_relative "text"
require_relative "error"
require_relative "fleet/format"
require_relative "fleet/goal_tracker"
require_relative "fleet/killed_jobs"
require_relative "fleet/operation"
require_relative "fleet/process"
require_relative "fleet/progress"
require_relative "fleet/registry"
require_relative "fleet/request"
require_relative "fleet/selection"
require_relative "fleet/targets"
require_relative "fleet/timeline"

module SidekiqLifecycle
  # Shows, quiets, waits for, stops and wakes the Sidekiq processes that share a Redis.
  #
  #     fleet = SidekiqLifecycle::Fleet.new
  #     fleet.quiet(match: "worker-*", timeout: 7200) { |progress| puts progress }
  #
  # It uses Sidekiq's own registry in Redis, so it includes processes without this gem. A process receives a signal at
  # its next heartbeat (5 s in Sidekiq 6, 10 s in 7 and 8), and its new state shows at the heartbeat after that.
  #
  # Every method takes `match:` and `except:`, patterns for {Selection}. Without them it is about all processes. An
  # empty list for `match:` is an error, because a computed list that is empty must not select every process.
  class Fleet
    # An operation failed. Signals that it has sent stay in effect.
    class Error < SidekiqLifecycle::Error
      # @return [Progress, nil] how far it came
      attr_reader :progress

      # @param message [String]
      # @param progress [Progress, nil]
      def initialize(message, progress = nil)
        super(message)
        @progress = progress
      end
    end

    # No process matches.
    class NoMatch < Error; end
    # Some processes will never reach the goal.
    class NotReached < Error; end
    # The timeout has passed.
    class TimedOut < Error; end
    # Redis does not answer.
    class Unreachable < Error; end

    # The class of a process under its former name.
    Member = Process

    # @param config [Object] answers `redis`: the module `Sidekiq`, or a `Sidekiq::Config`
    def initialize(config = ::Sidekiq)
      @config = config
      @registry = Registry.new(config)
    end

    # @return [Array<Process>] all that match, including ghosts
    # @raise [ArgumentError] if a pattern is wrong
    # @raise [Unreachable] if Redis does not answer
    def processes(match: nil, except: nil)
      selection = Selection.new(matching: match, except:)
      Targets.new(@registry.first_poll, selection).matching
    end
    alias members processes

    # Tells processes to take no more jobs, and waits until they have finished those they have.
    #
    # @param wait [Boolean] false: only wait until they are quiet
    # @param then_stop [Boolean] let each stop by itself once it has drained, however long that takes; `wait` waits
    #   until they have
    # @param timeout [Numeric, nil] seconds to wait at most
    # @yieldparam progress [Progress]
    # @return [Progress] the last one
    # @raise [ArgumentError] if a pattern or the timeout is wrong
    # @raise [Error] if no process matches, some will never reach the goal, the timeout passes, or Redis does not answer
    def quiet(match: nil, except: nil, wait: true, then_stop: false, timeout: nil, &listener)
      operation(match, except, timeout, &listener).quiet(wait:, then_stop:)
    end

    # Waits until processes reach a goal, and sends no signal. `:ready` is about the processes that are there at the
    # time, the other goals about those that are there now.
    #
    # @param goal [Symbol] `:ready`, `:quiet`, `:drained` or `:stopped`
    # @param timeout [Numeric, nil] seconds to wait at most
    # @yieldparam progress [Progress]
    # @return [Progress] the last one
    # @raise (see #quiet)
    def wait(goal, match: nil, except: nil, timeout: nil, &listener)
      unless Operation::GOALS.include?(goal)
        goals = Operation::GOALS.map(&:inspect).join(", ")
        raise ArgumentError, "there is no #{goal.inspect} to wait for; use one of #{goals}"
      end

      operation(match, except, timeout, &listener).wait(goal)
    end

    # Tells processes to stop, and waits until they have.
    #
    # @param drain_first [Boolean] quiet them first, and stop them when all (of a batch) have finished every job
    # @param batch [Integer, Float, nil] how many to stop at a time (an Integer), or which part of them (a Float up to
    #   1.0); the next batch follows when as many new processes are ready
    # @param timeout [Numeric, nil] seconds to wait at most
    # @yieldparam progress [Progress]
    # @return [Progress] the last one
    # @raise (see #quiet)
    def stop(match: nil, except: nil, drain_first: false, batch: nil, timeout: nil, &listener)
      unless batch.nil? || (batch.is_a?(Integer) && batch >= 1) || (batch.is_a?(Float) && batch.positive? && batch <= 1)
        raise ArgumentError, "batch is #{batch.inspect}; set it to a number such as 5, or a part such as 0.1"
      end

      operation(match, except, timeout, &listener).stop(drain_first:, batch:)
    end

    # Restarts processes that have drained: stops those that are quiet and have finished every job, so that their
    # supervisor starts new ones, and waits until as many new ones are ready. Processes that are still busy are left
    # alone, and then it raises {NotReached}.
    #
    # @param even_busy [Boolean] stop busy processes as well
    # @param timeout [Numeric, nil] seconds to wait at most
    # @yieldparam progress [Progress]
    # @return [Progress] the last one
    # @raise (see #quiet)
    def wake(match: nil, except: nil, even_busy: false, timeout: nil, &listener)
      operation(match, except, timeout, &listener).wake(even_busy:)
    end

    # What the processes were doing: when each was booting, ready, draining and stopping, and when none was ready. It
    # knows the processes that have this gem, as long as Redis keeps what they write: the last 70,000 messages.
    #
    # @param since [Numeric, Time] seconds to look back, or from when on
    # @return [Timeline]
    # @raise [ArgumentError] if that is not in the past
    # @raise [Error] if Redis does not answer, or is older than Redis 5
    def timeline(since: 6 * 60 * 60)
      now = Time.now
      from = since.is_a?(Numeric) ? now - since : since
      raise ArgumentError, "since is #{since.inspect}; set it to a number of seconds above 0" unless from < now

      living = @registry.first_poll.reject { |_, process| process.gone? }
                        .transform_keys { |name| Format.readable(name) }
      history = @registry.history(from, now)
      # What has not changed in this time is in no entry of it.
      long = living.except(*history.changes.keys).transform_values { |process| Timeline.changes_of(process) }
      Timeline.new({ **history.changes, **long }, from: from.to_f, to: now.to_f, beats: history.beats,
                                                  jobs: history.jobs, marks: history.marks,
                                                  known_from: history.known_from,
                                                  living: living.transform_values(&:started_at))
    end

    # Which jobs killed processes had in hand, and what became of them. Known are those of processes with
    # `recover_jobs`: the last 1000 that were put back, and those that wait in Redis because they had been running
    # across a heartbeat.
    #
    # @return [Array<KilledJob>] those that wait, and then the others, the latest news first
    # @raise [Unreachable] if Redis does not answer
    def lost = KilledJobs.new(@config).all

    # Puts back the jobs that killed processes had in hand, as a Sidekiq with `recover_jobs` does.
    #
    # @param directory [String, nil] a lifecycle directory of this machine; its flight recorders are included
    # @param limit [Integer] how often a job is put back, before it goes to the dead set
    # @param by [String] who asks for it, for the history
    # @return [Array<KilledJob>] what became of them
    # @raise [Error] if Redis does not answer, or the directory cannot be read
    def recover(directory: nil, limit: Configuration::RECOVER_LIMIT, by: "process #{::Process.pid}")
      KilledJobs.new(@config, directory:, limit:).recover(by:).map(&:killed_job)
    end

    # @api private
    # @param processes [Array<Process>]
    # @return [Array] the running jobs of the first of them, the longest running first
    def jobs(processes) = @registry.jobs(processes.first(Operation::JOBS_OF))

    # Asks something of processes, and waits for nothing.
    #
    # @api private
    # @param request [String] one of {Request::SIGNALS}
    # @param processes [Array<Process>]
    # @return [Integer] how many were told
    def request(request, processes)
      told = processes.reject { |process| Request.refusal(request, process) }
      @registry.signal(told, Request::SIGNALS.fetch(request), then_stop: request == "drain_and_stop") { nil }
      told.size
    end

    private

    def operation(match, except, timeout, &listener)
      unless timeout.nil? || (timeout.is_a?(Numeric) && timeout.positive?)
        raise ArgumentError, "timeout is #{timeout.inspect}; set it to a number of seconds above 0"
      end

      Operation.new(@registry, Selection.new(matching: match, except:), timeout, &listener)
    end
  end
end
