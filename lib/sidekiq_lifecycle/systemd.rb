# frozen_string_literal: true

module SidekiqLifecycle
  # Keeps Sidekiq's own words to systemd back where the core has better ones.
  #
  # `bin/sidekiq` says READY in the first `:startup` hook, before the application's own have run; STOPPING in
  # `:shutdown`; and feeds the watchdog from a thread that always runs, also when no job does.
  #
  # @api private
  module Systemd
    class << self
      # Begins to speak to systemd, if it has launched this process.
      #
      # @param native [Native::Process]
      def begin(native)
        @state, @heart = native.notify(::Sidekiq::Launcher::BEAT_PAUSE)
        # Through a socket that is none Sidekiq's own words are an exception in :startup, and the process ends. What is
        # wrong with it is said already.
        @mute = !@state && !ENV.fetch("NOTIFY_SOCKET", "").empty?
        return unless @state || @mute

        require "sidekiq/sd_notify"
        ::Sidekiq::SdNotify.singleton_class.prepend(Silence)
      end

      # @return [Float, nil] the seconds of its watchdog, where Sidekiq's heartbeat feeds it
      def watchdog
        seconds = ENV["WATCHDOG_USEC"].to_f / 1e6 if @heart
        seconds if seconds&.positive?
      end

      # Whether the core says what Sidekiq is about to say. In a forked child it says nothing.
      #
      # @param what [Symbol] `:state` or `:heart`
      def speaks?(what)
        SidekiqLifecycle.status && (@mute || (what == :heart ? @heart : @state))
      end
    end

    # Sidekiq::SdNotify
    module Silence
      # READY
      def ready(...) = (super unless Systemd.speaks?(:state))

      # STOPPING
      def stopping(...) = (super unless Systemd.speaks?(:state))

      # WATCHDOG
      def watchdog(...) = (super unless Systemd.speaks?(:heart))
    end
  end
end
