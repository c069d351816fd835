# frozen_string_literal: true

require "json"
require_relative "job"
require_relative "killed_job"
require_relative "sidekiq_compat"
require_relative "text"

module SidekiqLifecycle
  # Puts jobs that a killed process had in hand back at the head of their queues. One script does it: it marks each job
  # and pushes it, or finds the mark of somebody who was faster. So no job is put back twice, however many processes
  # try, and wherever one of them is killed.
  #
  # @api private
  class PutBack
    # Seconds for which marks are kept.
    EXPIRY = 30 * 24 * 60 * 60
    # Older jobs are not put back, because their marks may be gone.
    MAX_AGE = 28 * 24 * 60 * 60
    # What was put back, the latest first: a list of JSON.
    HISTORY = "sidekiq_lifecycle:lost"
    # How much of that is kept.
    HISTORY_SIZE = 1000
    # The key of a job that says how often it was put back. Sidekiq keeps keys that it does not know.
    COUNT = "lifecycle_put_back"
    # The same at the beginning of a job's text. An argument may have that name, too.
    COUNT_IN_TEXT = /\A(\s*\{)(?:"#{COUNT}":(\d+),)?/n
    private_constant :COUNT_IN_TEXT
    # The class of error that a job in the dead set shows.
    ERROR_CLASS = "SidekiqLifecycle::Killed"

    # What is appended to the identity of a process in the name of its copy ({JobCopy}).
    COPY_SUFFIX = ":lifecycle:jobs"
    # Processes that have a copy, by the time of their last heartbeat: a sorted set.
    COPIES = "sidekiq_lifecycle:recorders"

    # The mark of a recorder that has been read whole: what it did not have in hand, its process was done with, so
    # a copy in Redis that still has it is out of date.
    WHOLE = "whole"

    # The mark follows the push: Redis undoes nothing when a command fails, and a job that is marked only would be lost.
    # A queue that is no list keeps nothing from the others, and then this fails.
    #
    # KEYS: marks, history, the set of queues, the dead set, Sidekiq's key of the owner, its copy of its jobs, the
    # registry of such copies, then the queue of each job. ARGV: who does it, seconds until the marks expire, the time,
    # since when dead jobs are kept, how many, how much history, the owner's identity if it must be dead, and whether to
    # set {WHOLE}; then for each job its number, what to do, its queue's name, its payload and its line of history.
    SCRIPT = <<~LUA.freeze
      local results, died, failure = {}, false, nil
      if ARGV[7] ~= "" and redis.call("EXISTS", KEYS[5]) == 1 then
        return results
      end
      local is_over = ARGV[7] ~= "" and redis.call("HEXISTS", KEYS[1], "#{WHOLE}") == 1
      for i = 8, #KEYS do
        local at = 9 + (i - 8) * 5
        local fresh = not is_over and redis.call("HEXISTS", KEYS[1], ARGV[at]) == 0
        results[#results + 1] = fresh and 1 or 0
        if fresh then
          local reply
          if ARGV[at + 1] == "put_back" then
            redis.call("SADD", KEYS[3], ARGV[at + 2])
            reply = redis.pcall("RPUSH", KEYS[i], ARGV[at + 3])
          elseif ARGV[at + 1] == "dead" then
            died = true
            reply = redis.pcall("ZADD", KEYS[4], ARGV[3], ARGV[at + 3])
          end
          if type(reply) == "table" and reply.err then
            failure = reply
          else
            redis.call("HSET", KEYS[1], ARGV[at], ARGV[1])
            redis.call("LPUSH", KEYS[2], ARGV[at + 4])
          end
        end
      end
      if ARGV[8] == "1" and not failure then
        redis.call("HSET", KEYS[1], "#{WHOLE}", ARGV[1])
      end
      redis.call("EXPIRE", KEYS[1], ARGV[2])
      redis.call("LTRIM", KEYS[2], 0, ARGV[6] - 1)
      if died then
        redis.call("ZREMRANGEBYSCORE", KEYS[4], "-inf", ARGV[4])
        redis.call("ZREMRANGEBYRANK", KEYS[4], 0, -ARGV[5])
      end
      if failure then
        return failure
      end
      if ARGV[7] ~= "" then
        redis.call("DEL", KEYS[6])
        redis.call("ZREM", KEYS[7], ARGV[7])
      end
      return results
    LUA

    # A job that was in hand.
    #
    # - `number`: counts the jobs of a recorder
    # - `started`: when it was fetched, in milliseconds since 1970
    # - `kept`: its fetch keeps a copy, so it is not put back
    # - `queue`: Redis' key of its queue
    # - `payload`: Sidekiq's JSON
    InHand = Struct.new(:number, :started, :kept, :queue, :payload) do
      # @return [SidekiqLifecycle::Job] without its arguments
      def job = Job.of(payload, queue: queue_name)

      # @param owner [String] the process that had it
      # @param outcome [Symbol]
      # @return [KilledJob]
      def killed_job(owner, outcome, at: nil, by: nil)
        KilledJob.new(job:, process: owner, outcome:, started_at: Time.at(0, started, :millisecond), at:, by:)
      end

      # @return [String] its queue
      def queue_name = queue.delete_prefix("queue:")

      # @return [Hash, nil] nil: it is not JSON
      def parsed
        hash = JSON.parse(payload)
        hash if hash.is_a?(Hash)
      rescue JSON::ParserError, EncodingError
        nil
      end
    end

    # What became of a job, and how often it has been put back.
    Outcome = Struct.new(:killed_job, :times, :fresh) do
      # @return [Boolean] whether somebody was faster
      def already? = !fresh
    end

    # What is to be done with a job.
    Plan = Struct.new(:job, :outcome, :payload, :times)
    private_constant :Plan

    # @param recorder_id [String]
    # @return [String] Redis' key of the marks
    def self.marks(recorder_id) = "sidekiq_lifecycle:put_back:#{recorder_id}"

    # @param jobs [Array<Array>] as the native core returns them
    # @return [Array<InHand>]
    def self.jobs(jobs)
      jobs.map do |number, started, kept, queue, payload|
        InHand.new(number, started, kept, *[queue, payload].map { |text| text.dup.force_encoding(Encoding::UTF_8) })
      end
    end

    # @param config [Object] answers `redis`
    # @param limit [Integer] how often a job is put back at most
    # @param by [String] who does it
    def initialize(config, limit:, by:)
      @config = config
      @limit = limit
      @by = by
    end

    # @param recorder_id [String]
    # @param owner [String] the process that had them
    # @param jobs [Array<InHand>]
    # @param owner_key [String, nil] Sidekiq's key of the owner: while it exists nothing is put back
    # @param whole [Boolean] whether these are all that the owner had in hand when it was killed
    # @return [Array<Outcome>] all of them {Outcome#already?} if the owner is not dead
    def call(recorder_id, owner, jobs, owner_key: nil, whole: false)
      # The oldest is pushed last, and so fetched first.
      plans = jobs.sort_by { |job| -job.number }.map { |job| plan(job) }
      killed_jobs = plans.map { |plan| plan.job.killed_job(owner, plan.outcome, at: Time.now, by: @by) }
      fresh = @config.redis { |redis| run(redis, recorder_id, plans.zip(killed_jobs), owner_key, whole) }
      plans.zip(killed_jobs, fresh).map { |plan, job, is_fresh| Outcome.new(job, plan.times, is_fresh == 1) }
    end

    private

    def plan(job)
      return Plan.new(job, :kept, "", 0) if job.kept

      # What is not JSON goes to the dead set when it is fetched (`processor.rb`, `process`).
      hash = job.parsed or return Plan.new(job, :put_back, job.payload, 1)
      times = hash[COUNT].to_i
      return Plan.new(job, :dead, JSON.generate(hash.merge(error(times))), times) if times >= @limit

      Plan.new(job, :put_back, JSON.generate(hash.merge(COUNT => times + 1)), times + 1)
    rescue StandardError
      plan_by_text(job)
    end

    # Another program wrote it, with half of a character, say. Ruby reads that, and does not write it.
    def plan_by_text(job)
      times = job.payload.b[COUNT_IN_TEXT, 2].to_i
      return Plan.new(job, :dead, with_fields(job, error(times)), times) if times >= @limit

      Plan.new(job, :put_back, with_fields(job, COUNT => times + 1), times + 1)
    end

    # Its text with these fields in the place of the count.
    def with_fields(job, fields)
      text = job.payload.b.sub(COUNT_IN_TEXT) { "#{Regexp.last_match(1)}#{JSON.generate(fields)[1..-2]}," }
      text.force_encoding(job.payload.encoding)
    end

    def error(times)
      { "error_class" => ERROR_CLASS, "failed_at" => Time.now.to_f,
        "error_message" => "#{times + 1} processes were killed while they ran it" }
    end

    def run(redis, recorder_id, plans, owner_key, whole)
      now = Time.now.to_f
      options = SidekiqCompat.options(@config)
      keys = [self.class.marks(recorder_id), HISTORY, "queues", "dead", owner_key.to_s, "#{owner_key}#{COPY_SUFFIX}",
              COPIES, *plans.map { |plan, _| plan.job.queue }]
      arguments = [@by, EXPIRY, now, now - options[:dead_timeout_in_seconds], options[:dead_max_jobs], HISTORY_SIZE,
                   owner_key, whole ? 1 : 0]
      plans.each do |plan, killed_job|
        job = plan.job
        arguments.push(job.number, plan.outcome, job.queue_name, plan.payload, JSON.generate(killed_job.to_h))
      end
      SidekiqCompat.evaluate(redis, SCRIPT, keys, arguments.map(&:to_s))
    end
  end
end
