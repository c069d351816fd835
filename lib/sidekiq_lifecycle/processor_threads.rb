# frozen_string_literal: true

require_relative "drain_tracker"
require_relative "job"
require_relative "sidekiq_compat"
require_relative "text"

module SidekiqLifecycle
  # Sidekiq's processor threads and its scheduler's thread, as they are at one moment. A job or a library can end the
  # thread it runs on (`Thread.exit`). Sidekiq replaces a processor that ended by an exception (`processor.rb`, `run`),
  # and does not notice any other end.
  #
  # @api private
  class ProcessorThreads
    # @return [Array<#queue, #job>] units of work that processors have, including those of dead threads
    attr_reader :jobs

    # @param error [Exception, nil] what ended the scheduler's thread
    # @return [String] the problem
    def self.scheduler_died(error)
      "Sidekiq's scheduler has died#{" (#{Text.error(error)})" if error}: this process no longer puts retries and " \
        "scheduled jobs into their queues when their time has come; restart it"
    end

    # @param launcher [Sidekiq::Launcher]
    def initialize(launcher)
      @managers = SidekiqCompat.managers(launcher)
      @alive, @dead = @managers.map { |manager| partition(manager) }.transpose.map(&:flatten)
      @jobs, @abandoned = [@alive + @dead, @dead].map { |processors| processors.filter_map(&:job) }
      @size = @managers.sum { |manager| manager.instance_variable_get(:@count) }
      # Once it has been told to stop, it is expected to end.
      @scheduler = launcher.poller.instance_variable_get(:@thread) unless launcher.stopping?
    end

    # @return [DrainTracker::Threads]
    def to_drain_threads
      DrainTracker::Threads.new(stopped: @managers.all?(&:stopped?), alive: @alive.size, abandoned: @abandoned.size)
    end

    # @return [Hash{String => String, nil}] problems by what they are about
    def problems
      problems = { "threads" => threads_problem }
      dead = @scheduler && !@scheduler.alive?
      dead ? problems.merge("scheduler" => self.class.scheduler_died(end_of(@scheduler))) : problems
    end

    # @return [String, nil] why it can take no job
    def takes_no_job
      return if @alive.any? || @dead.empty?

      @size == 1 ? "Sidekiq's only thread has died" : "all #{@size} threads of Sidekiq have died"
    end

    # A stop pushes back the jobs of dead threads as well (`manager.rb`, `hard_shutdown`).
    #
    # @return [String, nil] why it can never have finished every job
    def never_drains
      return if @abandoned.empty?

      count = @abandoned.one? ? "a thread" : "#{@abandoned.size} threads"
      return_to = @abandoned.one? ? "goes back to its queue" : "go back to their queues"
      "#{count} of Sidekiq #{have(@abandoned)} died #{in_the_middle}, which #{return_to} when this process is stopped"
    end

    private

    # A processor leaves its manager's set before its thread ends, and enters it before the thread starts. Both happen
    # under this lock.
    def partition(manager)
      manager.instance_variable_get(:@plock).synchronize do
        manager.workers.partition { |processor| processor.thread&.alive? }
      end
    end

    def threads_problem
      return if @dead.empty?

      middle = ", #{in_the_middle}" if @abandoned.any?
      "#{@dead.size} of #{@size} threads of Sidekiq #{have(@dead)} died#{middle}: restart this process"
    end

    def have(threads) = threads.one? ? "has" : "have"

    def in_the_middle = "in the middle of #{@abandoned.map { |unit| Job.of_unit(unit).name }.join(", ")}"

    def end_of(thread)
      thread.join
      nil
    rescue Exception => e # rubocop:disable Lint/RescueException -- it ended the other thread, whatever it was
      e
    end
  end
end
