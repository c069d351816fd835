# frozen_string_literal: true

require_relative "crew"
require_relative "losses"
require_relative "majors"
require_relative "push_back"

module SidekiqLifecycle
  # The jobs of a Sidekiq process: whether the threads that do them are there, which are lost, and whether all are
  # finished with.
  #
  # @api private
  class Work
    # What is heard in {Taps} of jobs and of the threads that do them.
    EVENTS = %i[job_lost cut_off push_back scheduler_died].freeze

    # @return [Losses]
    attr_reader :losses
    # Sidekiq::Launcher, once it runs.
    attr_writer :launcher

    # @param config [Object] what answers `redis` and `logger`
    # @param native [Native::Process]
    def initialize(config, native)
      @config = config
      @native = native
      @losses = Losses.new
    end

    # Fetching and scheduling have ended.
    def fetching_ended = @fetching_ended = true

    # A drain that has lost a job is no drain. What was lost before is another story.
    #
    # @param error [Exception] why it is
    # @param job [Hash, nil] nil: it is not known
    def job_lost(error, job = nil)
      lose([job], error) if managers.any?(&:stopped?)
    end

    # Sidekiq's timeout has passed. The jobs in hand begin again, here or elsewhere, so such an end is never called
    # drained.
    def cut_off(manager) = losses.cut_off(manager.workers.to_a.count(&:job))

    # And this is when they are pushed back. What has come to its own end meanwhile is not lost.
    #
    # @return [Symbol] for {Taps}: nobody else need do it
    def push_back(jobs)
      error = PushBack.new(@config).call(jobs)
      lose((jobs & Crew.new(@launcher).jobs).map(&:job), error) if error
      :done
    end

    # Sidekiq has waited for the end of its scheduler, and found that it had died.
    def scheduler_died(error) = @native.note("scheduler", Crew.scheduler_died(error))

    # Every processor has ended its loop, so every job is acknowledged, requeued, or its retry pushed.
    def finished?
      crew = look
      @fetching_ended && losses.none? && crew&.finished? ? true : false
    end

    private

    def managers = Majors.managers(@launcher)

    def lose(jobs, error)
      losses.lose(jobs, error)
      look
    end

    # What threads have died, and what jobs are lost, decides what may be said of the process.
    def look
      return unless @launcher

      Crew.new(@launcher).tap do |crew|
        { "lost_jobs" => losses.problem, **crew.problems }.each { |name, problem| @native.note(name, problem) }
        @native.hindered(crew.takes_no_job, losses.problem || crew.never_drains)
      end
    end
  end
end
