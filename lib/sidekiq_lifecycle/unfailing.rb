# frozen_string_literal: true

module SidekiqLifecycle
  # A logger that raises ends Sidekiq's main thread, and with it a shutdown that has pushed no job back yet. From the
  # moment on when Sidekiq is told to stop, what cannot be logged is lost, and nothing else.
  #
  # Ruby's own Logger tells standard error of a device that raises, and so does not raise itself, unless `$stderr` does
  # (`$stderr = $stdout`, and the reader of that pipe has ended).
  #
  # @api private
  module Unfailing
    class << self
      # @return [Boolean] whether a Sidekiq of this process is being stopped
      attr_reader :wanted
      alias wanted? wanted

      # @param logger [Logger] Sidekiq's, whatever the application has set
      # @return [void]
      def make(logger)
        @wanted = true
        logger.extend(self)
      end

      # Sidekiq has ended inside a program that goes on, which may log to the same place.
      def over = @wanted = false
    end

    %i[debug info warn error fatal unknown add].each do |name|
      define_method(name) do |*arguments, **options, &block|
        super(*arguments, **options, &block)
      rescue StandardError
        raise unless Unfailing.wanted?

        false
      end
    end
  end
end
