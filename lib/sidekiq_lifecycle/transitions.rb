# frozen_string_literal: true

require "json"
require_relative "sidekiq_compat"

module SidekiqLifecycle
  # What a process writes to Redis for the timeline of the fleet: after a change of its state all its changes so far,
  # with the times at which they happened on the process's own clock, and at each heartbeat that it still runs.
  # {RedisStatus} sends both with its own message, so they cost no round trip.
  #
  # A killed process writes no end. Nobody needs to close its lane: its last heartbeat stays in {BEATS}, which says when
  # it was last alive, whether or not anyone looked at that moment.
  #
  # @api private
  class Transitions
    # A stream with an entry for each heartbeat that had something to say: `p` the process, `t` its life up to then, `j`
    # the jobs that its shutdown has interrupted or lost. Whoever reads the last hours needs nothing that is older.
    STREAM = "sidekiq_lifecycle:timeline"
    # A sorted set with the last heartbeat of each process that has not written its end.
    BEATS = "sidekiq_lifecycle:beats"
    # How many entries the stream keeps, and up to one node of it more: some 8 MB.
    ENTRIES = 70_000
    # Seconds after which the last heartbeat of a killed process is forgotten.
    MEMORY = 7 * 24 * 60 * 60
    # The states of the timeline and their letters in `t`. The timeline tells running processes that are ready from
    # those that are not.
    LETTERS = { booting: "b", ready: "r", unready: "u", quiet: "q", drained: "d", stopping: "s", ended: "e" }.freeze
    # States of the record that have the same name in the timeline.
    RECORDED = %i[booting quiet drained stopping].freeze
    # How many of the jobs are named.
    NAMED = 20

    BY_LETTER = LETTERS.invert.freeze
    # How many changes a process repeats: its first and the latest. Most have six; one may be ready and not ready in
    # turns.
    REPEATED = 20
    private_constant :BY_LETTER

    # @param changes [Array<Array(Symbol, Integer)>] states and milliseconds since 1970
    # @return [String] for `t`
    def self.dump(changes) = changes.map { |state, at| "#{LETTERS.fetch(state)}#{at}" }.join(" ")

    # @param text [String]
    # @return [Array<Array(Symbol, Float)>] states and seconds since 1970; without what cannot be read
    def self.load(text)
      text.split.filter_map do |word|
        state = BY_LETTER[word[0]]
        [state, Integer(word[1..], 10) / 1000.0] if state
      rescue ArgumentError
        nil # another version's
      end
    end

    # What Redis does not know yet of a process: its changes, and the jobs that it has interrupted and lost.
    News = Struct.new(:identity, :changes, :jobs, :at, keyword_init: true)
    private_constant :News

    def initialize
      @life = []
    end

    # What could not be written is news again at the next heartbeat; a process has no more than a handful of states.
    #
    # @param identity [String]
    # @param status [Status]
    # @param interrupted [Array<Job>]
    # @param lost [Array<Job>]
    # @param last [Boolean] whether Sidekiq leaves Redis with this message
    # @param now [Time]
    # @return [News]
    def news(identity, status, interrupted: [], lost: [], last: false, now: Time.now)
      changes = status.timings.slice(*RECORDED).except(*states).map { |state, at| [state, milliseconds(at)] }
      changes.concat(readiness(status, now))
      changes << [:ended, milliseconds(now)] if last
      News.new(identity:, changes:, jobs: described(interrupted, lost), at: now)
    end

    # Adds the commands to a pipeline. A heartbeat that was on its way while the process wrote its end adds nothing.
    #
    # @param pipeline [Object] of the Redis client
    # @param news [News]
    # @return [void]
    def write(pipeline, news)
      return if states.include?(:ended)

      record_beat(pipeline, news)
      return if news.changes.empty? && news.jobs == @jobs

      fields = { "p" => news.identity, "t" => self.class.dump(with(news)) }
      fields["j"] = news.jobs if news.jobs
      SidekiqCompat.append(pipeline, STREAM, ENTRIES, fields)
    end

    # Redis has it.
    #
    # @param news [News]
    # @return [void]
    def written(news)
      @life = with(news)
      @jobs = news.jobs
    end

    private

    def states = @life.map(&:first)

    # What has been noticed last may have happened earlier.
    def with(news)
      life = [*@life, *news.changes].sort_by.with_index { |(_, at), place| [at, place] }
      life.size > REPEATED ? [life.first, *life.last(REPEATED - 1)] : life
    end

    # A state like the others in the timeline, but it may be entered and left again.
    def readiness(status, now)
      started = status.timings[:running]
      return [] unless started

      # What quiets before its first heartbeat has been ready for a moment.
      state = status.state == :running && !status.ready? ? :unready : :ready
      last = states.grep(/ready/).last
      return [[state, milliseconds(started)]] unless last

      status.state == :running && state != last ? [[state, milliseconds(now)]] : []
    end

    def record_beat(pipeline, news)
      return pipeline.zrem(BEATS, news.identity) if news.changes.any? { |state,| state == :ended }

      pipeline.zadd(BEATS, news.at.to_f.round(3), news.identity)
      pipeline.zremrangebyscore(BEATS, "-inf", (news.at.to_f - MEMORY).round)
    end

    def described(interrupted, lost)
      return if interrupted.empty? && lost.empty?

      named = ->(jobs) { jobs.first(NAMED).map(&:to_h) }
      JSON.generate(interrupted: interrupted.size, interrupted_jobs: named[interrupted],
                    lost: lost.size, lost_jobs: named[lost])
    end

    def milliseconds(time) = (time.to_r * 1000).round
  end
end
