# frozen_string_literal: true

require_relative "put_back"
require_relative "recovery_log"
require_relative "sidekiq_compat"
require_relative "text"

module SidekiqLifecycle
  # Puts back what processes of this directory had in hand when they were killed: before this process takes a job, and
  # at heartbeats. While Redis is away, their recorders stay.
  #
  # @api private
  class JobRecovery
    # Seconds that the last threads of a killed process, and its connections to Redis, get to end. A connection that
    # still waits for a job would take what is put back, and lose it.
    SETTLE = 0.1

    # What a process has left behind, as the native core returns it.
    LeftBehind = Struct.new(:name, :id, :pid, :beat, :torn, :recorded, :of_this_boot) do
      # @return [String]
      def owner = "process #{pid}"

      # @return [Array<PutBack::InHand>]
      def jobs = @jobs ||= PutBack.jobs(recorded)

      # Puts them back, after {JobRecovery.settle}.
      #
      # @return [Array<PutBack::Outcome>]
      def put_back(config, limit:, by:)
        PutBack.new(config, limit:, by:).call(id, owner, jobs, whole: whole?)
      end

      # @return [Boolean] whether it has what its process last wrote: a machine that crashed may have kept less
      def whole? = of_this_boot && torn.zero?

      # @return [Boolean] whether the marks of its jobs may be gone
      def old? = Time.now.to_f - (beat / 1000.0) > PutBack::MAX_AGE

      # @return [String, nil] what there is to say of an old one; nil: it had no job in hand
      def age_warning
        return if jobs.empty?

        names = jobs.map { |job| job.job.name }.join(", ")
        "#{owner} was killed more than #{PutBack::MAX_AGE / 86_400} days ago, so what it had in hand is not put " \
          "back: #{names}"
      end

      # @return [String, nil] what there is to say of jobs that it had not recorded whole; nil: there is none
      def torn_warning
        return if torn.zero?

        them, are = torn == 1 ? ["a job", "is"] : ["#{torn} jobs", "are"]
        "#{owner} was killed in the moment when it fetched #{them}, which cannot be read and #{are} lost"
      end
    end

    # Waits until no connection of a killed process takes a job. Redis reads of a closed connection in the same turn as
    # of any other, or before. So after two answers it has ended those that were closed before the first.
    #
    # @param config [Object] answers `redis`
    # @return [void]
    def self.settle(config)
      sleep SETTLE
      2.times { config.redis(&:ping) }
    end

    # @param config [Object] answers `redis` and `logger`
    # @param native [Native::Process]
    # @param limit [Integer]
    def initialize(config, native, limit)
      @config = config
      @native = native
      @limit = limit
      @log = RecoveryLog.new(config.logger, native)
      @waiting = {}
      @given_up = []
    end

    # @return [void]
    def call
      @native.take_left_behind.each do |left_behind|
        left_behind = LeftBehind.new(*left_behind)
        @waiting[left_behind.name] = left_behind unless @given_up.include?(left_behind.name)
      end
      JobRecovery.settle(@config) if @waiting.values.any? { |left_behind| left_behind.jobs.any? }
      @waiting.values.each { |left_behind| recover(left_behind) } # rubocop:disable Style/HashEachMethods -- it changes
    rescue *SidekiqCompat.redis_errors => e
      warn("cannot put back jobs that a killed process had in hand (#{Text.error(e)}); trying again at each heartbeat")
    end

    private

    def recover(left_behind)
      return give_up(left_behind, left_behind.age_warning) if left_behind.old?

      outcomes = put_back(left_behind) or return
      @native.forget_left_behind(left_behind.name)
      @waiting.delete(left_behind.name)
      outcomes.each { |outcome| @log.add(outcome) }
      warn(left_behind.torn_warning)
    end

    # @return [Array<PutBack::Outcome>, nil] nil: that is not possible
    def put_back(left_behind)
      left_behind.put_back(@config, limit: @limit, by:)
    rescue StandardError => e
      raise if SidekiqCompat.passing?(e)

      give_up(left_behind, RecoveryLog.failure(left_behind.owner, e))
    end

    # It stays where it is, and is not looked at again.
    def give_up(left_behind, why)
      @waiting.delete(left_behind.name)
      @given_up << left_behind.name
      warn(why)
      nil
    end

    def by = SidekiqCompat.options(@config)[:identity] || "process #{Process.pid}"

    def warn(message) = (@log.warn(message) if message)
  end
end
