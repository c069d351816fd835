# frozen_string_literal: true

require "json"
require_relative "../job"
require_relative "../sidekiq_compat"
require_relative "format"

module SidekiqLifecycle
  class Fleet
    # One process of the fleet, as Redis showed it at one moment: Sidekiq's own fields (`launcher.rb`, `❤`), and what
    # this gem publishes beside them, if the process has it. An immutable value.
    class Process
      # The fields that the gem publishes, by their types. Anything else comes from another version, with another
      # format. Then only Sidekiq's fields are used.
      VALUES = { "state" => %w[booting running quiet stopping stopped], "ready" => [true, false],
                 "drained" => [true, false] }.freeze
      OPTIONAL = { "interrupted" => Integer, "interrupted_jobs" => Array, "lost" => Integer, "lost_jobs" => Array,
                   "never_drains" => String, "company" => String, "signal_path" => String, "sidekiq" => String }.freeze
      NOTHING = {}.freeze
      private_constant :VALUES, :OPTIONAL, :NOTHING

      # @return [String] Sidekiq's name for the process: hostname, pid and a random part
      attr_reader :identity
      # @return [String]
      attr_reader :hostname
      # @return [Integer, nil] in its own PID namespace
      attr_reader :pid
      # @return [String, nil] usually the application's name
      attr_reader :tag
      # @return [Array<String>]
      attr_reader :labels
      # @return [Array<String>]
      attr_reader :queues
      # @return [String, nil] Sidekiq's version; nil for a 6.x without this gem, which does not publish it
      attr_reader :version
      # @return [Integer, nil] jobs it can run at once
      attr_reader :concurrency
      # @return [Integer] running jobs at its last heartbeat
      attr_reader :busy
      # @return [Float, nil] when its last heartbeat was, on its own clock; nil: Redis has forgotten it
      attr_reader :beat
      # @return [Float, nil] seconds since its last heartbeat, on Redis's clock
      attr_reader :beat_age
      # @return [Float, nil] when it started, on its own clock
      attr_reader :started_at
      # @return [Hash, nil] what the gem published at that beat; nil if the process does not have it
      attr_reader :published

      # @api private
      # @param identity [String]
      # @param listed [Boolean] it is in Sidekiq's set of processes
      # @param fields [Hash{String => String, nil}] what Sidekiq published
      # @param beat_age [Float, nil]
      # @param published [String, nil] what this gem published
      def initialize(identity, listed:, fields: {}, beat_age: nil, published: nil)
        @identity = identity.freeze
        @listed = listed
        @beat_age = beat_age
        @published = checked(parse(published) || NOTHING)
        info = parse(fields["info"]) || NOTHING
        @readable = Format.readable(identity).freeze
        locate(info)
        describe(info)
        @concurrency = fields["concurrency"]&.to_i || number(info["concurrency"])
        @busy = fields["busy"].to_i
        @beat = fields["beat"]&.to_f
        @started_at = number(info["started_at"])&.to_f
        @listed_quiet = fields["quiet"] == "true"
        # All in it is frozen too. `Ractor.make_shareable` would search it, which takes longer than all the rest.
        freeze
      end

      # A heartbeat that was on its way when the process left puts it back into Sidekiq's set.
      #
      # @return [Boolean] whether it is in Sidekiq's set of processes, and has not left; it may be a ghost
      def listed? = @listed && @published&.dig("left") != true

      # @return [Boolean] whether it is listed without a heartbeat for 60 s, so that Redis has forgotten everything
      #   else: it was killed, or its machine is gone
      def ghost? = listed? && beat.nil?

      # @return [Boolean] whether it has left Sidekiq's set of processes, or is a ghost
      def gone? = !listed? || ghost?

      # @return [Boolean] whether it runs inside another program, which alone may quiet and stop it
      def embedded? = @embedded

      # @return [Float, nil] seconds since it started: until its last heartbeat by its own clock, since then by Redis's.
      #   Clocks are not compared with each other, because they may differ.
      def up_for
        (beat - started_at) + beat_age if beat && started_at && beat_age
      end

      # @return [Integer] seconds between two of its heartbeats
      def beat_pause = SidekiqCompat.beat_pause(version)

      # @return [Symbol] `:running`, `:quiet`, `:stopping`, `:stopped`, or `:ghost`
      def state
        return :ghost if ghost?
        return :stopped unless listed?

        @published ? @published.fetch("state").to_sym : listed_state
      end

      # @return [Boolean] whether it fetches jobs; with this gem, whether it is ready (`require_signal_path`)
      def ready?
        return false if gone?

        @published ? @published.fetch("ready") : !quiet?
      end

      # @return [Boolean] whether it was told to take no more jobs, or is gone
      def quiet? = gone? || @listed_quiet || %w[quiet stopping stopped].include?(@published&.fetch("state"))

      # @param then_stop [Boolean] it was also told to stop once it has drained
      # @return [Boolean] whether it is quiet, and knows that
      def quiet_as_told?(then_stop) = quiet? && (!then_stop || stops_when_drained? || state == :stopping)

      # @return [Boolean] whether it can stop by itself once it has drained: only this gem does that
      def can_stop_when_drained? = @published&.key?("stops_when_drained") || false

      # @return [Boolean] whether it stops once it has drained, as it reports
      def stops_when_drained? = @published&.dig("stops_when_drained") == true

      # @return [Boolean, nil] whether it has finished every job; nil: unknown, because it does not have this gem
      def drained? = @published&.fetch("drained")

      # @return [Time, nil] when it had finished every job, on its own clock (UTC)
      def drained_at
        time = @published&.dig("drained_at")
        Time.iso8601(time) if time
      end

      # @return [Time, nil] since when it is in its state, on its own clock (UTC); nil: it does not have this gem
      def since
        time = @published&.dig("since")
        Time.iso8601(time) if time
      end

      # @return [String, nil] why it can never finish every job, as it reports
      def never_drains = (@published&.dig("never_drains") unless gone?)

      # @return [String, nil] what else ends when it stops, as it reports
      def company = (@published&.dig("company") unless gone?)

      # @return [String, nil] the same with its name, for people
      def company_in_words = ("#{name}: #{Text.one_line(company)}" if company)

      # @return [Integer] how many jobs it reported as interrupted at its shutdown timeout and pushed back
      def interrupted = @published&.dig("interrupted") || 0

      # @return [Integer] how many jobs it reported as lost, because it could not push them back
      def lost = @published&.dig("lost") || 0

      # @return [Array<Job>] the names of the first of them
      def interrupted_jobs = jobs("interrupted_jobs")

      # @return [Array<Job>] the names of the first lost ones
      def lost_jobs = jobs("lost_jobs")

      # @return [String, nil] what happens to a SIGTERM sent to its container: "arrives", "lost", …
      def signal_path = @published&.dig("signal_path")

      # @return [String] its host and pid, for people; without invisible characters and those that a terminal interprets
      def name = Text.one_line(pid ? "#{hostname}:#{pid}" : @readable)

      # @return [String] the identity, for people: if several processes have the same {#name}
      def full_name = Text.one_line(@readable)

      # @return [Hash{Symbol => Object}] all fields, to log or to serialise
      def to_h
        { identity: @readable, hostname:, pid:, tag:, labels:, queues:, version:, concurrency:, busy:, state:,
          ready: ready?, quiet: quiet?, drained: drained?, drained_at: drained_at&.iso8601(3), never_drains:,
          stops_when_drained: stops_when_drained?, company:,
          interrupted:, interrupted_jobs: interrupted_jobs.map(&:to_h), lost:, lost_jobs: lost_jobs.map(&:to_h),
          beat_age:, ghost: ghost?, embedded: embedded?, signal_path:, lifecycle: @published&.dig("version") }
      end

      # @return [String]
      def inspect = "#<#{self.class} #{@readable} #{state} busy=#{busy}>"

      private

      def jobs(kind) = (@published&.dig(kind) || []).map { |job| Job.recorded(job) }

      def locate(info)
        @hostname = text(info["hostname"]) || part(1)&.freeze || @readable
        @pid = number(info["pid"]) || part(2)&.to_i
      end

      # The identity is made of hostname, pid and a random part; the hostname may have colons of its own.
      def part(place) = @readable[/\A(.*):(\d+):[^:]*\z/, place]

      def describe(info)
        @tag = text(info["tag"])
        @labels = texts(info["labels"])
        @queues = texts(info["queues"])
        @version = text(info["version"]) || @published&.dig("sidekiq")
        @embedded = info["embedded"] ? true : false
      end

      # ---- Redis may contain anything ----

      def checked(published)
        published.values_at("since", "drained_at").compact.each { |time| Time.iso8601(time) }
        published if known?(published)
      rescue ArgumentError, TypeError
        nil # one is not a time
      end

      def known?(published)
        VALUES.all? { |field, values| values.include?(published[field]) } &&
          OPTIONAL.all? { |field, type| published[field].nil? || published[field].is_a?(type) }
      end

      def text(value) = (value if value.is_a?(String) && !value.empty?)

      def texts(value) = (value.is_a?(Array) ? value.grep(String) : []).freeze

      def number(value) = (value if value.is_a?(Numeric))

      def parse(json)
        value = JSON.parse(Format.readable(json), freeze: true) if json
        value if value.is_a?(Hash)
      rescue JSON::ParserError
        nil
      end

      def listed_state = @listed_quiet ? :quiet : :running
    end
  end
end
