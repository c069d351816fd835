# frozen_string_literal: true

require "time"
require_relative "job"

module SidekiqLifecycle
  # The state of a Sidekiq process at one moment. An immutable value; ask for a new one to see changes.
  class Status
    # @return [Symbol] `:booting`, `:running`, `:quiet`, `:stopping` or `:stopped`
    attr_reader :state
    # @return [Time] when it entered that state (UTC)
    attr_reader :since
    # @return [String, nil] what led to that state: a signal, a call, an exit
    attr_reader :why
    # @return [Integer]
    attr_reader :pid
    # @return [Integer] running jobs
    attr_reader :busy
    # @return [Array<Job>] the running jobs by name
    attr_reader :running_jobs
    # @return [Array<Job>] jobs that Sidekiq interrupted at its shutdown timeout
    attr_reader :interrupted_jobs
    # @return [Array<Job>] jobs that Redis did not take back
    attr_reader :lost_jobs
    # @return [Integer, nil] jobs the process can run at once
    attr_reader :concurrency
    # @return [Hash{Symbol => Time}] when each state, and `:drained`, was reached (UTC)
    attr_reader :timings
    # @return [Float, nil] seconds since the last heartbeat
    attr_reader :beat_age
    # @return [Integer, nil] the exit status, once it has stopped: 128 + n for a signal n
    attr_reader :exit_status
    # @return [Hash{String => Integer}] how often each signal's handler was replaced and has been restored
    attr_reader :rearmed
    # @return [Symbol, nil] what happens to a SIGTERM sent to the top of the signal path (PID 1 of a container):
    #   `:arrives`, `:cut_short`, `:lost` or `:unknown`; nil if that cannot be inspected
    attr_reader :signal_path
    # @return [Integer, nil] the relay's pid, while one runs
    attr_reader :relay
    # @return [String, nil] why it will never be drained, however long you wait
    attr_reader :never_drains
    # @return [String, nil] what else ends when it stops (foreman, and everything that foreman has started), if anything
    attr_reader :company
    # @return [Array<String>] problems, as whole sentences
    attr_reader :problems
    # @return [Array<String>] what could not be determined about the signal path and the stop timeout, as whole
    #   sentences
    attr_reader :doubts
    # @return [String] the lifecycle directory
    attr_reader :directory
    # @return [String] the ready file
    attr_reader :ready_file
    # @return [Float, nil] seconds the platform leaves between SIGTERM and SIGKILL, as configured
    attr_reader :stop_timeout
    # @return [String] Sidekiq's version
    attr_reader :sidekiq_version
    # @return [String] this gem's version
    attr_reader :version

    # @api private
    # @param report [Hash] the core's report on the process
    # @param configuration [Configuration]
    # @param busy [Integer] running jobs
    def initialize(report, configuration, busy:)
      record = report.fetch("record")
      @state = record["state"].to_sym
      @since = Time.iso8601(record["since"])
      @timings = record["timings"].to_h { |name, time| [name.to_sym, Time.iso8601(time)] }
      @why, @never_drains, @company, @pid, @concurrency, @exit_status, @embedded =
        record.values_at(*%w[why never_drains company pid concurrency exit_status embedded])
      @rearmed, @sidekiq_version, @version = record.values_at("rearmed", "sidekiq", "version")
      @problems = record["problems"].map { |problem| problem["message"] }
      describe_path(record["signal_path"] || {}, record["time"] || {})
      @busy = busy
      @stops_when_drained = !record["stops_when_drained"].nil?
      @running_jobs, @interrupted_jobs, @lost_jobs = %w[running interrupted lost].map { |kind| jobs(record, kind) }
      @ready, @live, @drained, @beat_age = report.values_at("ready", "live", "drained", "beat_age")
      configured(configuration)
      Ractor.make_shareable(self) # frozen, and all in it
    end

    # @return [Boolean] whether it is live and running: it fetches jobs
    def ready? = @ready

    # @return [Boolean] whether its last heartbeat is recent; stays true while it drains
    def live? = @live

    # @return [Boolean] whether it has been told to take no more jobs
    def quiet? = %i[quiet stopping].include?(state)

    # @return [Boolean] whether it is quiet or stopping, and has finished every job
    def drained? = @drained

    # @return [Boolean] whether it stops once it has drained, because that was requested
    def stops_when_drained? = @stops_when_drained

    # @return [Boolean] whether Sidekiq runs inside another program (`Sidekiq.configure_embed`)
    def embedded? = @embedded

    # @return [Hash{Symbol => Object}] all fields, to log or to serialise
    def to_h
      names = %i[state since why pid busy concurrency timings beat_age exit_status rearmed signal_path relay
                 never_drains company problems doubts directory ready_file stop_timeout sidekiq_version version]
      jobs = %i[running_jobs interrupted_jobs lost_jobs].to_h { |name| [name, public_send(name).map(&:to_h)] }
      names.to_h { |name| [name, public_send(name)] }.merge(jobs)
           .merge(ready: ready?, live: live?, quiet: quiet?, drained: drained?, embedded: embedded?,
                  stops_when_drained: stops_when_drained?)
    end

    # @return [String]
    def inspect
      "#<#{self.class} pid=#{pid} state=#{state} busy=#{busy} ready=#{ready?} drained=#{drained?}>"
    end

    private

    def configured(configuration)
      @directory = configuration.directory
      @ready_file = configuration.ready_file || File.join(directory, "ready")
      @stop_timeout = configuration.stop_timeout
    end

    def describe_path(path, time)
      @signal_path, @relay = path.values_at("term", "relay")
      @signal_path &&= @signal_path.tr("-", "_").to_sym
      @doubts = [path["doubt"], (time["words"] if time["fit"] == "unknown")].compact - @problems
    end

    def jobs(record, kind) = record.dig("jobs", kind).map { |job| Job.recorded(job) }
  end
end
