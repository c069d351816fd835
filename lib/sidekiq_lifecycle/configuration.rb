# frozen_string_literal: true

require_relative "text"

module SidekiqLifecycle
  # The settings of an application, made in the block of {SidekiqLifecycle.install}.
  class Configuration
    # The default lifecycle directory, below the application's root.
    DEFAULT_DIRECTORY = Native::DEFAULT_DIRECTORY

    # The default of {#recover_limit}.
    RECOVER_LIMIT = 3

    # Values of `$SIDEKIQ_LIFECYCLE_SIGNAL_RELAY`, and others that mean the same.
    RELAY_WORDS = { "off" => :off, "false" => :off, "no" => :off, "0" => :off,
                    "auto" => :auto, "on" => :auto, "true" => :auto, "yes" => :auto, "1" => :auto }.freeze
    SET_HTTP_ADDRESS = 'set it to a port from 1 to 65535, or to an IP address and a port, such as "127.0.0.1:7433"'
    private_constant :RELAY_WORDS, :SET_HTTP_ADDRESS

    # @return [String] the absolute path of the lifecycle directory: `$SIDEKIQ_LIFECYCLE_DIR`, else `tmp/sidekiq` below
    #   the application's root
    attr_reader :directory

    # @return [String, nil] the absolute path of the ready file; nil: `ready` in the lifecycle directory
    attr_reader :ready_file

    # @return [Float, nil] the seconds the platform leaves between SIGTERM and SIGKILL (ECS `stopTimeout`,
    #   Kubernetes `terminationGracePeriodSeconds`, systemd `TimeoutStopSec`, `docker stop -t`)
    attr_reader :stop_timeout

    # @return [Symbol] `:auto`: if there are shells that would lose signals, a relay forwards the signals past them
    #   (ptrace(2) on those shells); `:off`: no relay. From `$SIDEKIQ_LIFECYCLE_SIGNAL_RELAY` (`auto` or `off`), else
    #   `:auto`. In Rails the relay starts before the application boots, so only the variable prevents its start.
    attr_reader :signal_relay

    # @return [Boolean] whether this process becomes ready only if SIGTERM is known to arrive, and to leave it enough
    #   time
    attr_reader :require_signal_path

    # @return [Boolean] whether the ECS task is protected from scale-in and deploys while jobs run
    attr_reader :ecs_task_protection

    # @return [Boolean] whether jobs that were in hand when a process was killed go back to their queues
    attr_reader :recover_jobs

    # @return [Integer] how often a job is put back; after that it goes to the dead set
    attr_reader :recover_limit

    # @return [String, nil] where HTTP probes and metrics are served: a port, which means all of the machine's
    #   addresses, or an IP address and a port; nil: nowhere. From `$SIDEKIQ_LIFECYCLE_HTTP`, else what was set
    attr_reader :http

    # @return [Float, nil] seconds without a job after which the process drains and exits; nil: never
    attr_reader :exit_when_idle

    # @param root [String] the application's root, the base of relative paths
    def initialize(root: Configuration.root)
      @root = root
      @ready_file = nil
      @stop_timeout = @exit_when_idle = nil
      @require_signal_path = false
      @ecs_task_protection = false
      @recover_jobs = false
      @recover_limit = RECOVER_LIMIT
      self.http = nil
      self.signal_relay = :auto
      self.directory = DEFAULT_DIRECTORY
    end

    # @return [String] `Rails.root`, or else the working directory
    def self.root
      rails = ::Rails.root if defined?(::Rails) && ::Rails.respond_to?(:root)
      (rails || Dir.pwd).to_s
    end

    # `$SIDEKIQ_LIFECYCLE_DIR` takes precedence, because the native command reads it as well.
    #
    # @param path [String, Pathname] relative to the application's root, or absolute
    # @raise [ArgumentError] if it is not a path
    def directory=(path)
      set = expand(:directory, path)
      # As the native command reads it: a leading ~ has no meaning.
      from_environment = from_environment(Native::DIRECTORY_VARIABLE)
      @directory = from_environment ? readable(File.absolute_path(from_environment.b, @root.b)) : set
    end

    # @param path [String, Pathname, nil] relative to the application's root, or absolute; nil: `ready` in the directory
    # @raise [ArgumentError] if it is not a path
    def ready_file=(path)
      @ready_file = path.nil? ? nil : expand(:ready_file, path)
    end

    # @param seconds [Numeric, nil] more than 0; nil: unknown
    # @raise [ArgumentError] if it is not such a number
    def stop_timeout=(seconds)
      @stop_timeout = seconds(:stop_timeout, seconds, 30)
    end

    # @param seconds [Numeric, nil] more than 0; nil: never
    # @raise [ArgumentError] if it is not such a number
    def exit_when_idle=(seconds)
      @exit_when_idle = seconds(:exit_when_idle, seconds, 300)
    end

    # `SIDEKIQ_LIFECYCLE_SIGNAL_RELAY=off` takes precedence.
    #
    # @param setting [Symbol, String] `:auto` or `:off`
    # @raise [ArgumentError] if it is something else
    def signal_relay=(setting)
      unless %w[auto off].include?(setting.to_s)
        raise ArgumentError, "signal_relay is #{setting.inspect}; set it to :auto or :off"
      end

      @signal_relay = relay_of_environment == :off ? :off : setting.to_sym
    end

    # @param required [Boolean]
    # @raise [ArgumentError] if it is neither true nor false
    def require_signal_path=(required)
      @require_signal_path = boolean(:require_signal_path, required)
    end

    # @param wanted [Boolean]
    # @raise [ArgumentError] if it is neither true nor false
    def ecs_task_protection=(wanted)
      @ecs_task_protection = boolean(:ecs_task_protection, wanted)
    end

    # @param wanted [Boolean]
    # @raise [ArgumentError] if it is neither true nor false
    def recover_jobs=(wanted)
      @recover_jobs = boolean(:recover_jobs, wanted)
    end

    # @param times [Integer] 0 or more
    # @raise [ArgumentError] if it is not such a number
    def recover_limit=(times)
      unless times.is_a?(Integer) && !times.negative?
        raise ArgumentError, "recover_limit is #{times.inspect}; set it to how often a job is put back, such as 3"
      end

      @recover_limit = times
    end

    # `$SIDEKIQ_LIFECYCLE_HTTP` takes precedence.
    #
    # @param address [Integer, String, nil] `7433`, `"127.0.0.1:7433"`, `"[::1]:7433"`; nil: HTTP is not served
    # @raise [ArgumentError] if it is something else
    def http=(address)
      unless address.nil? || http_address?(address)
        raise ArgumentError, "http is #{address.inspect}; #{SET_HTTP_ADDRESS}"
      end

      from_environment = from_environment(Native::HTTP_VARIABLE)
      @http = http_address?(from_environment) ? from_environment : address&.to_s
    end

    # What is wrong with the environment variables. They belong to the deployment, so a worker runs with them.
    #
    # @api private
    # @return [String, nil]
    def environment_problem
      problems = [relay_problem, directory_problem, http_problem].compact
      problems.join("; ") if problems.any?
    end

    private

    def boolean(name, value)
      return value if [true, false].include?(value)

      raise ArgumentError, "#{name} is #{value.inspect}; set it to true or false"
    end

    def seconds(name, seconds, example)
      unless seconds.nil? || ((seconds.is_a?(Integer) || seconds.is_a?(Float)) && seconds.positive? && seconds.finite?)
        raise ArgumentError, "#{name} is #{seconds.inspect}; set it to a number of seconds above 0, such as #{example}"
      end

      seconds&.to_f # which Rails' 30.seconds is as well
    end

    def from_environment(name)
      value = ENV.fetch(name, "")
      value unless value.empty?
    end

    def relay_problem
      relay = from_environment(Native::SIGNAL_RELAY_VARIABLE)
      return if relay.nil? || relay_of_environment

      "#{Native::SIGNAL_RELAY_VARIABLE} is #{relay.inspect} and is ignored; set it to auto or off"
    end

    def directory_problem
      directory = from_environment(Native::DIRECTORY_VARIABLE)
      return if directory.nil? || Text.one_line(directory) == Text.readable(directory)

      "#{Native::DIRECTORY_VARIABLE} is #{directory.inspect} and is used with invisible characters; " \
        "set it to a path on one line"
    end

    def http_problem
      http = from_environment(Native::HTTP_VARIABLE)
      return if http.nil? || http_address?(http)

      "#{Native::HTTP_VARIABLE} is #{http.inspect} and is ignored; #{SET_HTTP_ADDRESS}"
    end

    def http_address?(value)
      (value.is_a?(Integer) || value.is_a?(String)) && Native.http_address?(Text.readable(value.to_s))
    end

    def relay_of_environment
      RELAY_WORDS[Text.readable(from_environment(Native::SIGNAL_RELAY_VARIABLE)).strip.downcase]
    end

    # Without a locale Ruby labels paths from the system as ASCII. As bytes, all paths can be joined.
    def readable(path)
      text = path.dup.force_encoding(Encoding::UTF_8)
      text.valid_encoding? ? text : path
    end

    def expand(name, path)
      text = path.to_s if path.is_a?(String) || path.respond_to?(:to_path)
      if text.nil? || text.empty? || text.b.include?("\0")
        raise ArgumentError, "#{name} is #{path.inspect}; set it to a path, such as #{DEFAULT_DIRECTORY.inspect}"
      end

      readable(File.expand_path(text.b, @root.b))
    end
  end
end
