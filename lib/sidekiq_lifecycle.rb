# frozen_string_literal: true

require_relative "sidekiq_lifecycle/version"
require_relative "sidekiq_lifecycle/error"
require_relative "sidekiq_lifecycle/native_extension"
require_relative "sidekiq_lifecycle/cli"
require_relative "sidekiq_lifecycle/configuration"
require_relative "sidekiq_lifecycle/listeners"
require_relative "sidekiq_lifecycle/sidekiq_adapter"
require_relative "sidekiq_lifecycle/status"

# Makes the lifecycle of a Sidekiq process reliable: it reports when the process is ready, SIGTERM always reaches it,
# and it can be quieted and drained.
#
#     Sidekiq.configure_server do |config|
#       SidekiqLifecycle.install(config)
#     end
module SidekiqLifecycle
  # The state changes that {on} can report.
  EVENTS = %i[running quiet stopping drained stopped].freeze

  autoload :Fleet, "sidekiq_lifecycle/fleet"

  @listeners = Listeners.new

  class << self
    # Installs the lifecycle in the Sidekiq that is being configured. Call it in `Sidekiq.configure_server` or
    # `Sidekiq.configure_embed`. A second call only changes the configuration.
    #
    # A directory that cannot be used is logged and reported in the {status}; Sidekiq runs all the same.
    #
    # @param config [Object] the config that Sidekiq yields: `Sidekiq::Config`, or the module `Sidekiq` in 6.x
    # @yieldparam lifecycle [Configuration]
    # @return [void]
    # @raise [ArgumentError] if a setting is wrong, or `config` is not Sidekiq's
    def install(config)
      unless config.respond_to?(:on) && config.respond_to?(:logger)
        raise ArgumentError, "install expects the config yielded by Sidekiq.configure_server, got #{config.inspect}"
      end

      @configuration ||= Configuration.new
      yield @configuration if block_given?
      SidekiqAdapter.install(config, @configuration, @listeners)
      nil
    end

    # @return [Status, nil] the state of this process; nil if it is not a Sidekiq (a web server, a console, a child that
    #   a job has forked)
    def status
      adapter = SidekiqAdapter.current
      adapter.status if adapter&.ours?
    end

    # @return [Boolean] whether this process is a Sidekiq, and ready
    def ready? = status&.ready? || false

    # @return [Boolean] whether this process is a Sidekiq, and has been told to take no more jobs
    def quiet? = status&.quiet? || false

    # @return [Boolean] whether this process is a Sidekiq, has been told to take no more jobs, and has finished every
    #   job
    def drained? = status&.drained? || false

    # Makes this process take no more jobs, and lets it exit with 0 once it has finished every job it has, however long
    # that takes. Returns at once. A job may call it as well.
    #
    # @return [void]
    # @raise [Error] if this process is not a Sidekiq, or Sidekiq runs inside another program, which it cannot end
    def drain_and_exit
      adapter = SidekiqAdapter.current
      raise Error, "this process is not a Sidekiq with sidekiq_lifecycle" unless adapter&.ours?

      adapter.drain_and_exit("drain_and_exit")
      nil
    end

    # Calls the block with the {Status} when this process reaches a state. The block runs on whatever thread notices the
    # change, and the process may reach another state before it does. Sidekiq waits for it, so keep it short. What it
    # raises is logged.
    #
    # @param event [Symbol] `:running`, `:quiet`, `:stopping`, `:drained` or `:stopped`
    # @yieldparam status [Status]
    # @return [void]
    # @raise [ArgumentError] if there is no such event, or no block
    def on(event, &listener)
      unless EVENTS.include?(event)
        raise ArgumentError, "there is no event #{event.inspect}; use one of #{EVENTS.map(&:inspect).join(", ")}"
      end
      raise ArgumentError, "SidekiqLifecycle.on(#{event.inspect}) needs a block" unless listener

      @listeners.add(event, listener)
      nil
    end
  end
end

require_relative "sidekiq_lifecycle/railtie" if defined?(Rails::Railtie)
