# frozen_string_literal: true

require_relative "sidekiq_lifecycle/version"

begin
  require "sidekiq_lifecycle/native"
rescue LoadError => e
  raise LoadError, "sidekiq_lifecycle's native part cannot be loaded (#{e.message}). If it was not built, run: " \
                   "gem pristine sidekiq_lifecycle; in a checkout: rake compile"
end
require_relative "sidekiq_lifecycle/boot"
require_relative "sidekiq_lifecycle/configuration"
require_relative "sidekiq_lifecycle/listeners"
require_relative "sidekiq_lifecycle/native_command"
require_relative "sidekiq_lifecycle/sidekiq_adapter"
require_relative "sidekiq_lifecycle/status"

# Owns a Sidekiq process's life: it says truthfully when it is ready, it always hears SIGTERM, and it can be quieted
# and drained.
#
#     Sidekiq.configure_server do |config|
#       SidekiqLifecycle.install(config)
#     end
module SidekiqLifecycle
  # What the native part raises. In Sidekiq's own hooks it is caught and logged.
  class Error < StandardError; end

  # The transitions that {on} can wait for.
  EVENTS = %i[running quiet stopping drained stopped].freeze

  autoload :Fleet, "sidekiq_lifecycle/fleet"

  @listeners = Listeners.new

  class << self
    # Installs the lifecycle into the Sidekiq that is being configured. To be called in `Sidekiq.configure_server` or
    # `Sidekiq.configure_embed`; calling it again changes the configuration and nothing else.
    #
    # A directory that cannot be used is logged and shown in the {status}; Sidekiq runs on.
    #
    # @param config [Object] what Sidekiq yields: `Sidekiq::Config`, or the module `Sidekiq` in 6.x
    # @yieldparam lifecycle [Configuration]
    # @return [void]
    # @raise [ArgumentError] if a setting is wrong, or `config` is not Sidekiq's
    def install(config)
      unless config.respond_to?(:on) && config.respond_to?(:logger)
        raise ArgumentError, "install wants what Sidekiq.configure_server yields, and was given #{config.inspect}"
      end

      @configuration ||= Configuration.new
      yield @configuration if block_given?
      SidekiqAdapter.install(config, @configuration, @listeners)
      nil
    end

    # @return [Status, nil] where this process is now; nil in a process that is no Sidekiq (a web server, a console, a
    #   child that a job has forked)
    def status
      adapter = SidekiqAdapter.current
      adapter.status if adapter&.ours?
    end

    # @return [Boolean] this process is a Sidekiq, and is ready for work
    def ready? = status&.ready? || false

    # @return [Boolean] this process is a Sidekiq, and was told to stop fetching
    def quiet? = status&.quiet? || false

    # @return [Boolean] this process is a Sidekiq that was told to stop fetching, and it has finished with every job
    def drained? = status&.drained? || false

    # Calls the block when this process gets there, with its {Status}. It is called on whatever thread notices, and
    # should be brief: while it runs, Sidekiq waits. What it raises is logged.
    #
    # @param event [Symbol] `:running`, `:quiet`, `:stopping`, `:drained` or `:stopped`
    # @yieldparam status [Status]
    # @return [void]
    # @raise [ArgumentError] if there is no such event, or no block
    def on(event, &listener)
      unless EVENTS.include?(event)
        raise ArgumentError, "there is no event #{event.inspect}; use one of #{EVENTS.map(&:inspect).join(", ")}"
      end
      raise ArgumentError, "SidekiqLifecycle.on(#{event.inspect}) wants a block" unless listener

      @listeners.add(event, listener)
      nil
    end
  end
end

require_relative "sidekiq_lifecycle/railtie" if defined?(Rails::Railtie)
