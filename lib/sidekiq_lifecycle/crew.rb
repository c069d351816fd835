# frozen_string_literal: true

require_relative "job_name"
require_relative "majors"
require_relative "text"

module SidekiqLifecycle
  # The threads that do Sidekiq's work, as they are at one moment. A job, or a library, can end the thread it runs on
  # (`Thread.exit`). Sidekiq puts a new processor in the place of one that ended by an exception (`processor.rb`,
  # `run`), and does not notice any other end.
  #
  # @api private
  class Crew
    # @return [Array<#queue, #job>] Sidekiq's units of work that processors have in hand, dead ones too
    attr_reader :jobs

    # @param error [Exception, nil] what the scheduler's thread has ended by
    # @return [String] what is wrong then
    def self.scheduler_died(error)
      "Sidekiq's scheduler has died#{" (#{Text.error(error)})" if error}: this process no longer puts retries and " \
        "scheduled jobs into their queues when their time has come; restart it"
    end

    # @param launcher [Sidekiq::Launcher]
    def initialize(launcher)
      @managers = Majors.managers(launcher)
      @living, @dead = @managers.map { |manager| look(manager) }.transpose.map(&:flatten)
      @jobs, @left = [@living + @dead, @dead].map { |processors| processors.filter_map(&:job) }
      @size = @managers.sum { |manager| manager.instance_variable_get(:@count) }
      # Once it is told to stop, its end is no wonder.
      @scheduler = launcher.poller.instance_variable_get(:@thread) unless launcher.stopping?
    end

    # @return [Boolean] no processor is left that has a job, or may get one
    def finished? = @managers.all?(&:stopped?) && @living.empty? && @left.empty?

    # @return [Hash{String => String, nil}] what is wrong, by what it is wrong with
    def problems
      problems = { "threads" => threads_problem }
      dead = @scheduler && !@scheduler.alive?
      dead ? problems.merge("scheduler" => self.class.scheduler_died(end_of(@scheduler))) : problems
    end

    # @return [String, nil] why it can take no job
    def takes_no_job
      return if @living.any? || @dead.empty?

      @size == 1 ? "Sidekiq's only thread has died" : "all #{@size} threads of Sidekiq have died"
    end

    # A stop pushes back the jobs of dead threads as well (`manager.rb`, `hard_shutdown`).
    #
    # @return [String, nil] why it can never have finished with every job
    def never_drains
      return if @left.empty?

      count = @left.one? ? "a thread" : "#{@left.size} threads"
      return_to = @left.one? ? "goes back to its queue" : "go back to their queues"
      "#{count} of Sidekiq #{have(@left)} died #{in_the_middle}, which #{return_to} when this process is stopped"
    end

    private

    # A processor leaves its manager's set before its thread ends, and enters it before that begins, under this lock.
    def look(manager)
      manager.instance_variable_get(:@plock).synchronize do
        manager.workers.partition { |processor| processor.thread&.alive? }
      end
    end

    def threads_problem
      return if @dead.empty?

      middle = ", #{in_the_middle}" if @left.any?
      "#{@dead.size} of #{@size} threads of Sidekiq #{have(@dead)} died#{middle}: restart this process"
    end

    def have(those) = those.one? ? "has" : "have"

    def in_the_middle = "in the middle of #{JobName.list(@left.map(&:job))}"

    def end_of(thread)
      thread.join
      nil
    rescue Exception => e # rubocop:disable Lint/RescueException -- whatever it was, it is of another thread
      e
    end
  end
end
