# frozen_string_literal: true

require_relative "../job_copy"
require_relative "../job_recovery"
require_relative "../killed_job"
require_relative "../put_back"
require_relative "../sidekiq_compat"

module SidekiqLifecycle
  class Fleet
    # Jobs that processes had in hand when they were killed: those that wait, and what became of the others. Redis knows
    # those of the fleet, and a lifecycle directory those of this machine.
    #
    # @api private
    class KilledJobs
      # A directory's flight recorders, and what became of the jobs in them.
      Recorders = Struct.new(:directory) do
        # @return [Array<JobRecovery::LeftBehind>]
        def left_behind = Native.left_behind(directory).map { |fields| JobRecovery::LeftBehind.new(*fields) }

        # @return [Array<String>] what cannot be read, and why
        def unusable
          Native.unusable_recorders(directory).map do |name, reason|
            "#{File.join(directory, "recorders", name)} cannot be read, so its jobs are not put back: #{reason}"
          end
        end

        # @param outcome [PutBack::Outcome]
        def note(outcome)
          Native.note_outcome(directory, JSON.generate(outcome.killed_job.to_h)) unless outcome.already?
        end

        # @param left_behind [JobRecovery::LeftBehind]
        def forget(left_behind) = Native.forget_left_behind(directory, left_behind.name)
      end

      # @param config [Object] answers `redis`
      # @param directory [String, nil] a lifecycle directory of this machine
      # @param limit [Integer] how often a job is put back at most
      def initialize(config, directory: nil, limit: Configuration::RECOVER_LIMIT)
        @config = config
        @limit = limit
        @recorders = Recorders.new(directory) if directory
        @torn = []
      end

      # @return [Array<KilledJob>] those that wait, and then what became of others, the latest first
      # @raise [Unreachable] if Redis does not answer
      def all = waiting + history

      # @return [Array<KilledJob>] those that wait to be put back
      # @raise (see #all)
      def waiting
        reachable do
          known = sources.flat_map { |owner, id, jobs| unmarked(id, jobs).map { |job| [owner, id, job] } }
          # The same job may be in a recorder and in Redis.
          known.uniq { |_, id, job| [id, job.number] }.map do |owner, _, job|
            job.killed_job(owner, job.kept ? :kept : :waiting)
          end
        end
      end

      # Puts back all that wait, as a Sidekiq with `recover_jobs` does.
      #
      # @param by [String] who asks for it
      # @return [Array<PutBack::Outcome>] of those that were put back now
      # @raise (see #all)
      def recover(by:)
        reachable do
          found = left_behind
          JobRecovery.settle(@config) if found.any? { |left| left.jobs.any? }
          outcomes = found.flat_map { |left| recover_recorder(left, by) }
          outcomes += copies.flat_map { |copy| copy.put_back(@config, limit: @limit, by:) }
          outcomes.reject(&:already?)
        end
      end

      # @return [Array<String>] what {#recover} could not put back, and why
      def warnings
        [*@torn, *all_left_behind.select(&:old?).filter_map(&:age_warning), *@recorders&.unusable]
      end

      private

      def reachable
        yield
      rescue *SidekiqCompat.redis_errors => e
        raise Unreachable, "Redis does not answer: #{Text.masked(e.message)}"
      rescue Fleet::Error
        raise
      rescue SidekiqLifecycle::Error => e # the directory
        raise Error, e.message
      end

      def history
        reachable do
          @config.redis { |redis| redis.lrange(PutBack::HISTORY, 0, -1) }.filter_map { |line| KilledJob.parse(line) }
        end
      end

      # The owner, its recorder's id, and its jobs.
      def sources
        left_behind.map { |left| [left.owner, left.id, left.jobs] } +
          copies.map { |copy| [copy.identity, copy.recorder_id, copy.jobs] }
      end

      def all_left_behind = @recorders ? @recorders.left_behind : []

      def left_behind = all_left_behind.reject(&:old?)

      # Of processes that Sidekiq calls dead.
      def copies
        silent = @config.redis { |redis| JobCopy.silent(redis) }
        silent.reject { |identity| alive?(identity) }.map { |identity| JobCopy::Copy.of(@config, identity) }
      end

      # Sidekiq's clients answer in different ways.
      def alive?(identity) = [1, true].include?(@config.redis { |redis| redis.hexists(identity, "info") })

      def unmarked(id, jobs)
        return [] if jobs.empty?

        numbers = jobs.map { |job| job.number.to_s }
        whole, *marks = @config.redis { |redis| redis.hmget(PutBack.marks(id), PutBack::WHOLE, *numbers) }
        whole ? [] : jobs.zip(marks).filter_map { |job, mark| job unless mark }
      end

      def recover_recorder(left_behind, by)
        outcomes = left_behind.put_back(@config, limit: @limit, by:)
        outcomes.each { |outcome| @recorders.note(outcome) }
        @recorders.forget(left_behind)
        @torn.push(*left_behind.torn_warning)
        outcomes
      end
    end
  end
end
