# frozen_string_literal: true

module SidekiqLifecycle
  # Scale-in protection on ECS: while jobs run, neither autoscaling nor a deploy stops the task, however long they take.
  #
  # All of it happens on one thread of its own, which sleeps without a timer while the worker is idle. A job does no
  # more than to say that it begins, and mostly somebody has said so before. Nobody waits for the agent, but for the
  # end of the process, a moment ({#finish}).
  #
  # @api private
  class TaskProtection
    # Seconds for which the protection is asked. Whoever is killed leaves it behind for so long.
    EXPIRES = 20 * 60

    # Seconds after which it is asked for anew, which starts its time again. Three quarters of that time are left for
    # an agent that is gone, or an API that throttles.
    RENEW = 5 * 60

    # Seconds without a job after which it is given back, give or take half of them: between the jobs of a busy queue
    # the agent is left alone. A deploy can wait so long; a worker told to stop gives it back at once.
    LINGER = 30

    # Seconds until the first further attempt.
    RETRY = 1

    # The most seconds that it gets to by doubling.
    RETRY_AT_MOST = 60

    # Seconds until a further attempt where only people can mend it.
    RETRY_RARELY = 5 * 60

    # Attempts in vain after which a trouble that may pass is told.
    TOLD_AFTER = 3

    # Seconds by which the end of the process may be later.
    FAREWELL = 2

    class << self
      # Begins, where it is wanted, in `:startup`: the threads that run jobs are not there yet, so no job is missed.
      #
      # @param configuration [Configuration]
      # @param busy [#call] answers how many jobs are in hand
      # @yieldparam problem [String, nil] what is wrong, in a whole sentence; nil: nothing any more
      # @return [void]
      def begin(configuration, busy, &tell)
        return unless configuration.ecs_task_protection

        # Net::HTTP is no small thing to load.
        require_relative "task_protection/agent"
        require_relative "task_protection/claim"
        agent = Agent.at(ENV.fetch("ECS_AGENT_URI", ""))
        return tell.call(absent) unless agent

        ::Sidekiq::Processor.prepend(Processor)
        @current = new(agent, Claim.new(configuration.directory), busy, &tell)
        @current.listen
      end

      # On the thread of the job.
      def job_begins = @current&.job_begins

      private

      def absent
        "ecs_task_protection is set, but $ECS_AGENT_URI is #{ENV["ECS_AGENT_URI"].inspect}, where the agent of an " \
          "ECS task would be; jobs are not protected from scale-in"
      end
    end

    # Sidekiq::Processor
    module Processor
      private

      # From here until it is acknowledged, the job is in hand (`processor.rb`). In every Sidekiq from 6.4 to 8.1.
      def process(...)
        TaskProtection.job_begins
        super
      end
    end

    def initialize(agent, claim, busy, &tell)
      @agent = agent
      @claim = claim
      @busy = busy
      @tell = tell
      @mutex = Mutex.new
      @wake = ConditionVariable.new
      @retry_at = 0
      @failures = 0
      @thread = Thread.new { run }
      @thread.name = "sidekiq_lifecycle ecs"
    end

    # Hears of the end.
    def listen
      SidekiqLifecycle.on(:drained) { release }
      SidekiqLifecycle.on(:stopped) { |status| stopped(status) }
    end

    # A job begins. Wakes our thread if the job is the first one since it has looked.
    def job_begins
      return if @worked

      @mutex.synchronize do
        @worked = true
        @wake.signal
      end
    end

    # There will be no more jobs: gives the protection back, without anybody waiting for it.
    def release
      @mutex.synchronize do
        @over = @called = true
        @wake.signal
      end
    end

    # The process ends: waits for the agent, but not for long.
    def finish
      release
      @thread.join(FAREWELL)
    end

    private

    # A program in which Sidekiq was embedded goes on, and may end at any time.
    def stopped(status)
      return finish unless status.embedded?

      release
      at_exit { finish }
    end

    def run
      loop do
        wanted = wanted?
        turn(wanted) if wanted != @wanted
        ask if @due && @due <= now
        return if @over && !@held

        rest
      end
    rescue StandardError => e
      warn "sidekiq_lifecycle: protection from scale-in has ended: #{Text.error(e)}"
    end

    # Whether there are jobs, or were a moment ago.
    def wanted?
      worked = @mutex.synchronize { @worked.tap { @worked = false } }
      @last_work = now if worked || @busy.call.positive?
      !@over && !@last_work.nil? && now - @last_work < LINGER
    end

    # It is wanted from now on, or no longer.
    def turn(wanted)
      @wanted = wanted
      @due = wanted ? [now, @retry_at].max : (now if @held)
    end

    def ask
      trouble = @wanted ? protect : give_back
      return succeeded unless trouble

      @failures += 1
      @retry_at = now + pause(trouble)
      @due = (@retry_at if @wanted || @held)
      complain(trouble) if trouble.lasting || @failures >= TOLD_AFTER
    end

    # Who got no answer may be protected all the same; who was refused, and held nothing before, is not.
    def protect
      @claim.take
      held = @held
      @held = true
      @expires_at = now + EXPIRES
      trouble = @agent.protect(EXPIRES / 60)
      if trouble&.lasting && !held
        @held = false
        @claim.leave { nil }
      end
      trouble
    end

    def give_back
      trouble = @claim.leave { @agent.release }
      @held = false unless trouble && !trouble.lasting && now < @expires_at
      trouble
    end

    def succeeded
      @failures = @retry_at = 0
      @due = (now + RENEW if @wanted)
      @tell.call(nil) if @told
      @told = false
    end

    # Many tasks may have begun at once; they should not go on in step.
    def pause(trouble)
      seconds = trouble.lasting ? RETRY_RARELY : [RETRY * (2**[@failures - 1, 16].min), RETRY_AT_MOST].min
      seconds * rand(0.75..1.25)
    end

    def complain(trouble)
      @told = true
      @tell.call(if @wanted
                   "this ECS task could not be protected from scale-in: #{trouble.text}"
                 else
                   "the scale-in protection of this ECS task could not be ended, and runs out within " \
                     "#{EXPIRES / 60} min: #{trouble.text}"
                 end)
    end

    # Until it is time to look or to ask again; with nothing wanted and nothing held, until a job begins.
    def rest
      wake_at = @wanted ? [@due, now + (LINGER / 2.0)].min : @due
      @mutex.synchronize do
        @wake.wait(@mutex, wake_at && [wake_at - now, 0.001].max) until awake?(wake_at)
        @due = now if @called && @due
        @called = false
      end
    end

    def awake?(wake_at)
      @called || (@worked && !@wanted) || (wake_at && wake_at <= now)
    end

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
