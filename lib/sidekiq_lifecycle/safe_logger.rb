# frozen_string_literal: true

module SidekiqLifecycle
  # Keeps Sidekiq's logger from raising while Sidekiq quiets or stops. An exception there would end Sidekiq's main
  # thread, and with it a shutdown that has not pushed jobs back yet. Log lines that cannot be written are dropped
  # instead.
  #
  # Ruby's own Logger reports a device that raises to standard error, so it only raises if `$stderr` does
  # (`$stderr = $stdout`, and the reader of that pipe has exited).
  #
  # @api private
  module SafeLogger
    class << self
      # @return [Boolean] whether a Sidekiq of this process is being stopped
      attr_reader :active
      alias active? active

      # @param logger [Logger] Sidekiq's, or the application's own
      # @return [void]
      def protect(logger)
        @active = true
        logger.extend(self)
      end

      # Sidekiq has ended inside a program that goes on, and may use the same logger.
      def release = @active = false
    end

    %i[debug info warn error fatal unknown add].each do |name|
      define_method(name) do |*arguments, **options, &block|
        super(*arguments, **options, &block)
      rescue StandardError
        raise unless SafeLogger.active?

        false
      end
    end
  end
end
