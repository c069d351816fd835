# frozen_string_literal: true

module SidekiqLifecycle
  # Scale-in protection on ECS: while jobs run, neither autoscaling nor a deploy stops the task, however long they take.
  #
  # It has a thread of its own, which sleeps without a timer while the worker is idle. A job only sets a flag when it
  # starts, and usually the flag is already set. Nothing waits for the agent, except the exit of the process, for a
  # moment ({#finish}).
  #
  # @api private
  class TaskProtection
    # Seconds until the protection expires. A process that is killed leaves it behind for that long.
    EXPIRES = 20 * 60

    # Seconds after which it is renewed. Three quarters of its time are left then, for an agent that is gone or an API
    # that throttles.
    RENEW = 5 * 60

    # Seconds without a job after which it is released. It looks twice in this time, so it may be a half more or less.
    # Between the jobs of a busy queue no request is sent. A deploy can wait that long, and a worker that is told to
    # stop releases it at once.
    LINGER = 30

    # Seconds until the first retry.
    RETRY = 1

    # The longest pause between retries, which doubles each time.
    RETRY_AT_MOST = 60

    # Seconds between retries if only people can fix the problem.
    RETRY_RARELY = 5 * 60

    # Failed attempts after which a temporary failure is reported.
    REPORTED_AFTER = 3

    # Seconds by which it may delay the exit of the process.
    EXIT_DELAY = 2

    class << self
      # Starts it in `:startup` if the configuration asks for it. Sidekiq's threads do not exist yet, so no job is
      # missed.
      #
      # @param configuration [Configuration]
      # @param busy [#call] returns the number of running jobs
      # @yieldparam problem [String, nil] the problem as a whole sentence; nil: it is solved
      # @return [void]
      def start(configuration, busy, &report)
        return unless configuration.ecs_task_protection

        # Net::HTTP takes time to load.
        require_relative "task_protection/agent"
        require_relative "task_protection/claim"
        agent = Agent.at(ENV.fetch("ECS_AGENT_URI", ""))
        return report.call(no_agent) unless agent

        ::Sidekiq::Processor.prepend(Processor)
        @current = new(agent, Claim.new(configuration.directory), busy, &report)
        @current.subscribe
      end

      # @return [Boolean, nil] whether the task is protected, as far as is known; nil: that is not asked for
      def held? = @current&.held?

      # A job starts. Called on its thread.
      def record_job = @current&.record_job

      private

      def no_agent
        "ecs_task_protection is set, but $ECS_AGENT_URI is #{ENV["ECS_AGENT_URI"].inspect}, which is not the address " \
          "of an ECS agent; jobs are not protected from scale-in"
      end
    end

    # Sidekiq::Processor
    module Processor
      private

      # From here until it is acknowledged, the processor has the job (`processor.rb`). In every Sidekiq from 6.4 to
      # 8.1.
      def process(...)
        TaskProtection.record_job
        super
      end
    end

    def initialize(agent, claim, busy, &report)
      @agent = agent
      @claim = claim
      @busy = busy
      @report = report
      @mutex = Mutex.new
      @wake = ConditionVariable.new
      @retry_at = 0
      @failures = 0
      @thread = Thread.new { run }
      @thread.name = "sidekiq_lifecycle ecs"
    end

    # @return [Boolean]
    def held? = @held ? true : false

    # Listens for the end of the process.
    def subscribe
      SidekiqLifecycle.on(:drained) { release }
      SidekiqLifecycle.on(:stopped) { |status| stopped(status) }
    end

    # A job starts. Wakes the thread if it is the first one since the thread's last check.
    def record_job
      return if @has_worked

      @mutex.synchronize do
        @has_worked = true
        @wake.signal
      end
    end

    # There will be no more jobs. Releases the protection, without waiting for that.
    def release
      @mutex.synchronize do
        @over = @called = true
        @wake.signal
      end
    end

    # The process exits. Waits for the agent, but not for long.
    def finish
      release
      @thread.join(EXIT_DELAY)
    end

    private

    # The host program of an embedded Sidekiq goes on, and may exit at any time.
    def stopped(status)
      return finish unless status.embedded?

      release
      at_exit { finish }
    end

    def run
      loop do
        wanted = wanted?
        switch(wanted) if wanted != @wanted
        send_request if @due && @due <= now
        return if @over && !@held

        rest
      end
    rescue StandardError => e
      warn "sidekiq_lifecycle: protection from scale-in has ended: #{Text.error(e)}"
    end

    # Whether jobs are running, or were a moment ago.
    def wanted?
      has_worked = @mutex.synchronize { @has_worked.tap { @has_worked = false } }
      @last_work = now if has_worked || @busy.call.positive?
      !@over && !@last_work.nil? && now - @last_work < LINGER
    end

    # The protection is wanted from now on, or no longer.
    def switch(wanted)
      @wanted = wanted
      @due = wanted ? [now, @retry_at].max : (now if @held)
    end

    def send_request
      failure = @wanted ? protect : unprotect
      return record_success unless failure

      @failures += 1
      @retry_at = now + pause(failure)
      @due = (@retry_at if @wanted || @held)
      report(failure) if failure.permanent || @failures >= REPORTED_AFTER
    end

    # Without an answer, the task may be protected all the same. After a refusal it is not, unless it was before.
    def protect
      @claim.take
      held = @held
      @held = true
      @expires_at = now + EXPIRES
      failure = @agent.protect(EXPIRES / 60)
      if failure&.permanent && !held
        @held = false
        @claim.leave { nil }
      end
      failure
    end

    def unprotect
      failure = @claim.leave { @agent.release }
      @held = false unless failure && !failure.permanent && now < @expires_at
      failure
    end

    def record_success
      @failures = @retry_at = 0
      @due = (now + RENEW if @wanted)
      @report.call(nil) if @has_reported
      @has_reported = false
    end

    # Random, because many tasks may have started at once.
    def pause(failure)
      seconds = failure.permanent ? RETRY_RARELY : [RETRY * (2**[@failures - 1, 16].min), RETRY_AT_MOST].min
      seconds * rand(0.75..1.25)
    end

    def report(failure)
      @has_reported = true
      @report.call(if @wanted
                     "this ECS task could not be protected from scale-in: #{failure.message}"
                   else
                     "the scale-in protection of this ECS task could not be released, and expires within " \
                       "#{EXPIRES / 60} min: #{failure.message}"
                   end)
    end

    # Sleeps until the next check or request. If no protection is wanted or held, until a job starts.
    def rest
      wake_at = @wanted ? [@due, now + (LINGER / 2.0)].min : @due
      @mutex.synchronize do
        @wake.wait(@mutex, wake_at && [wake_at - now, 0.001].max) until awake?(wake_at)
        @due = now if @called && @due
        @called = false
      end
    end

    def awake?(wake_at)
      @called || (@has_worked && !@wanted) || (wake_at && wake_at <= now)
    end

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
