# frozen_string_literal: true

require "time"
require_relative "text"
require_relative "fleet/member"
require_relative "fleet/operation"
require_relative "fleet/progress"
require_relative "fleet/pursuit"
require_relative "fleet/registry"
require_relative "fleet/selection"
require_relative "fleet/targets"
require_relative "fleet/words"

module SidekiqLifecycle
  # Every Sidekiq that shares a Redis: to look at, to quiet, to wait for, to stop and to wake.
  #
  #     fleet = SidekiqLifecycle::Fleet.new
  #     fleet.quiet(match: "worker-*", timeout: 7200) { |progress| puts progress }
  #
  # It goes through Sidekiq's own registry in Redis, so processes without this gem are seen and steered as well. A
  # process hears what it is told at its next heartbeat (5 s in Sidekiq 6, 10 s in 7 and 8), and its answer is seen at
  # the one after that.
  #
  # Every method takes `match:` and `except:`, patterns for {Selection}; without them all processes are meant. An empty
  # list to match is an error: one that was computed, and came out so, does not mean everybody.
  class Fleet
    # What can go wrong with an operation. What was told to processes until then stays told.
    class Error < SidekiqLifecycle::Error
      # @return [Progress, nil] how far it had come
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
    # Some will never get where they should.
    class NotReached < Error; end
    # The time is over.
    class TimedOut < Error; end
    # Redis does not answer.
    class Unreachable < Error; end

    # @param config [Object] what answers `redis`: the module `Sidekiq`, or a `Sidekiq::Config`
    def initialize(config = ::Sidekiq)
      @registry = Registry.new(config)
    end

    # @return [Array<Member>] all that match, ghosts too
    # @raise [ArgumentError] if a pattern is wrong
    # @raise [Unreachable] if Redis does not answer
    def members(match: nil, except: nil)
      selection = Selection.new(matching: match, except:)
      Targets.new(@registry.first_look, selection).matching
    end

    # Tells processes to fetch no more jobs, and waits until they have finished with those they have.
    #
    # @param wait [Boolean] false: only until all have been told
    # @param timeout [Numeric, nil] seconds to wait at most
    # @yieldparam progress [Progress]
    # @return [Progress] the last one
    # @raise [ArgumentError] if a pattern or the timeout is wrong
    # @raise [Error] if no process matches, some will never get there, the time is over, or Redis does not answer
    def quiet(match: nil, except: nil, wait: true, timeout: nil, &listener)
      operation(match, except, timeout, &listener).quiet(wait:)
    end

    # Waits until processes have got somewhere; nothing is told to anybody. `:ready` asks whoever is there by then; the
    # others ask those that are there now.
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
    # @param drain_first [Boolean] quiet them first, and stop them when all (of a batch) have finished with every job
    # @param batch [Integer, Float, nil] stop so many at a time (an Integer), or such a part of them (a Float up to
    #   1.0); the next when as many new ones are ready
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

    # Stops processes that are quiet and have finished with every job, so that their supervisor starts new ones, and
    # waits until as many new ones are ready. Those that are still busy are left alone, and then it was not reached.
    #
    # @param even_busy [Boolean] stop those as well
    # @param timeout [Numeric, nil] seconds to wait at most
    # @yieldparam progress [Progress]
    # @return [Progress] the last one
    # @raise (see #quiet)
    def wake(match: nil, except: nil, even_busy: false, timeout: nil, &listener)
      operation(match, except, timeout, &listener).wake(even_busy:)
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
