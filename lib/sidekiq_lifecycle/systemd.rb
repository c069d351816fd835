# frozen_string_literal: true

module SidekiqLifecycle
  # Suppresses Sidekiq's own sd_notify(3) messages where the core sends better ones.
  #
  # `bin/sidekiq` sends READY in the first `:startup` hook, before the application's own hooks have run, and STOPPING in
  # `:shutdown`. It feeds the watchdog from a thread that always runs, even if no job does.
  #
  # @api private
  module Systemd
    class << self
      # Notifies systemd from now on, if systemd has launched this process.
      #
      # @param native [Native::Process]
      def start(native)
        @sends_state, @sends_watchdog = native.notify_systemd(::Sidekiq::Launcher::BEAT_PAUSE)
        # If the socket is unusable, Sidekiq's own message raises in :startup, and the process exits. The core has
        # already reported what is wrong with the socket.
        @socket_unusable = !@sends_state && !ENV.fetch("NOTIFY_SOCKET", "").empty?
        return unless @sends_state || @socket_unusable

        require "sidekiq/sd_notify"
        ::Sidekiq::SdNotify.singleton_class.prepend(Suppression)
      end

      # @return [Float, nil] the watchdog's seconds, if Sidekiq's heartbeat feeds it
      def watchdog
        seconds = ENV["WATCHDOG_USEC"].to_f / 1e6 if @sends_watchdog
        seconds if seconds&.positive?
      end

      # Whether Sidekiq's own message is to be suppressed. In a forked child nothing is.
      #
      # @param message [Symbol] `:state` or `:watchdog`
      def suppresses?(message)
        SidekiqLifecycle.status && (@socket_unusable || (message == :watchdog ? @sends_watchdog : @sends_state))
      end
    end

    # Sidekiq::SdNotify
    module Suppression
      # READY
      def ready(...) = (super unless Systemd.suppresses?(:state))

      # STOPPING
      def stopping(...) = (super unless Systemd.suppresses?(:state))

      # WATCHDOG
      def watchdog(...) = (super unless Systemd.suppresses?(:watchdog))
    end
  end
end
