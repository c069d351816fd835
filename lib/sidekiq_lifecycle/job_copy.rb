# frozen_string_literal: true

require_relative "put_back"
require_relative "recovery_log"

module SidekiqLifecycle
  # A copy in Redis of what this process has in hand, for the case that its machine never comes back: at each heartbeat
  # the jobs that were running at the one before, and all of them once it goes quiet. Any other process of the fleet
  # puts them back when Sidekiq itself calls this one dead. Short jobs are never copied.
  #
  # The heartbeat's thread does it, over its connection.
  #
  # @api private
  class JobCopy
    # Seconds for which a copy is kept.
    EXPIRY = 7 * 24 * 60 * 60
    # Seconds after which Sidekiq's key of a process expires (`launcher.rb`, `expire(key, 60)`). The script that puts
    # jobs back looks whether it has, because the clocks of machines differ.
    DEAD_AFTER = 60
    # The field with the recorder's id, beside the numbers of jobs.
    ID = "recorder"
    # Reads {PutBack::COPIES}. Sidekiq warns in the log of the command itself, and its successor needs Redis 6.2.
    SILENT = 'return redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", ARGV[1])'
    # Seconds for which {#hurry} waits for the end of a heartbeat.
    PATIENCE = 5
    # Seconds between two looks at it.
    POLL = 0.05
    # How many processes are looked at in one heartbeat.
    AT_ONCE = 5

    # What Redis keeps of a process's jobs.
    #
    # - `identity`: Sidekiq's name for the process
    # - `recorder_id`: of its recorder
    # - `jobs`: those that it had in hand
    Copy = Struct.new(:identity, :recorder_id, :jobs) do
      # @param config [Object] answers `redis`
      # @param identity [String]
      # @return [Copy]
      def self.of(config, identity)
        copy = config.redis { |redis| redis.hgetall("#{identity}#{PutBack::COPY_SUFFIX}") }
        new(identity, copy.fetch(ID, ""), copy.except(ID).map { |number, text| decode(number, text) })
      end

      def self.decode(number, text)
        started, *texts = text.b.split("\n", 3)
        queue, payload = texts.map { |part| part.force_encoding(Encoding::UTF_8) }
        PutBack::InHand.new(number.to_i, started.to_i, false, queue.to_s, payload.to_s)
      end
      private_class_method :decode

      # Puts them back, unless the process lives.
      #
      # @return [Array<PutBack::Outcome>]
      def put_back(config, limit:, by:)
        PutBack.new(config, limit:, by:).call(recorder_id, identity, jobs, owner_key: identity)
      end
    end

    # @param redis [Object] a client, or a pipeline
    # @return [Array<String>] the identities of processes that have a copy, and have not written it for a minute
    def self.silent(redis)
      SidekiqCompat.evaluate(redis, SILENT, [PutBack::COPIES], [(Time.now.to_i - DEAD_AFTER).to_s])
    end

    # @param config [Object] answers `redis` and `logger`
    # @param native [Native::Process]
    # @param limit [Integer] how often a job is put back at most
    def initialize(config, native, limit)
      @config = config
      @native = native
      @limit = limit
      @log = RecoveryLog.new(config.logger, native)
      @copied = []
      @taken = []
      @given_up = []
      @lock = Mutex.new
    end

    # A heartbeat has reached Redis, or Sidekiq leaves. These are two threads, and the last one must have the last word.
    #
    # @param identity [String] Sidekiq's name for the process
    # @return [void]
    def sync(identity)
      @lock.synchronize { copy(identity) }
    ensure
      # Then the recorder stays, and shows what this process was done with when it ended.
      @native.keep_recorder(@copied.any?)
    end

    # The process goes quiet: lets the next heartbeat come now. Its thread is woken only from the pause between two
    # heartbeats (`launcher.rb`, `start_heartbeat`). A heartbeat that is on its way may have read too early what is in
    # hand, so another one follows it at once.
    #
    # @param launcher [Sidekiq::Launcher, nil]
    # @return [void]
    def hurry(launcher)
      heart = launcher&.instance_variable_get(:@thread)
      return if heart.nil? || wake(heart)

      Thread.new { PATIENCE.fdiv(POLL).ceil.times { wake(heart) ? break : sleep(POLL) } }
    end

    private

    def copy(identity)
      is_running = @native.state == "running"
      jobs = PutBack.jobs(@native.recorded_jobs).reject(&:kept)
      jobs.select! { |job| @last_beat && job.started <= @last_beat } if is_running
      @last_beat = (Time.now.to_f * 1000).to_i
      silent = exchange(identity, jobs) - @given_up
      silent.first(AT_ONCE).each { |other| recover(identity, other) } if is_running
    end

    # @return [Boolean] whether it was woken, or has ended
    def wake(heart)
      return !heart.alive? unless pausing?(heart)

      heart.wakeup
      true
    rescue ThreadError
      true
    end

    def pausing?(thread)
      pause, caller = Array(thread.backtrace_locations(0, 2)).map(&:label)
      pause.to_s.end_with?("sleep") && caller.to_s.end_with?("start_heartbeat")
    end

    # Writes what has changed, reads who is silent and whose jobs of ours were put back, in one round trip.
    def exchange(identity, jobs)
      numbers = jobs.map { |job| job.number.to_s }
      marks = PutBack.marks(@native.recorder_id)
      former = @copied
      @copied |= numbers # also if Redis' answer does not arrive
      silent, taken = @config.redis do |redis|
        redis.pipelined do |pipeline|
          JobCopy.silent(pipeline)
          pipeline.hmget(marks, *numbers) if numbers.any?
          write(pipeline, identity, jobs, former - numbers) if @copied.any?
        end
      end
      @copied = numbers
      report_taken(jobs, taken) if numbers.any?
      silent - [identity]
    end

    def write(pipeline, identity, jobs, gone)
      key = "#{identity}#{PutBack::COPY_SUFFIX}"
      pipeline.hdel(key, *gone) if gone.any?
      return close(pipeline, identity, key) if jobs.empty?

      # All of them, because the copy may have been put back and deleted meanwhile.
      pipeline.hset(key, ID, @native.recorder_id, *jobs.flat_map { |job| [job.number.to_s, encode(job)] })
      pipeline.expire(key, EXPIRY)
      pipeline.zadd(PutBack::COPIES, Time.now.to_i.to_s, identity)
    end

    def close(pipeline, identity, key)
      pipeline.del(key)
      pipeline.zrem(PutBack::COPIES, identity)
    end

    def encode(job) = [job.started, job.queue, job.payload].join("\n")

    # This process had lost its network for so long that others took it for dead.
    def report_taken(jobs, taken)
      jobs.zip(Array(taken)).each do |job, by|
        next if by.nil? || by == FlightRecorder::OWN || @taken.include?(job.number)

        @taken << job.number
        @log.warn("while this process did not reach Redis, #{by} took it for dead and put #{job.job.name} back, " \
                  "which runs here as well")
      end
    end

    def recover(identity, other)
      outcomes = Copy.of(@config, other).put_back(@config, limit: @limit, by: identity)
      outcomes.each { |outcome| @log.add(outcome) unless outcome.already? }
    rescue StandardError => e
      raise if SidekiqCompat.passing?(e)

      @given_up << other
      @log.warn(RecoveryLog.failure(other, e))
    end
  end
end
