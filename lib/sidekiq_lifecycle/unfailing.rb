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
    # @param logger [Logger] Sidekiq's, whatever the application has set
    # @return [void]
    def self.make(logger) = logger.extend(self)

    %i[debug info warn error fatal unknown add].each do |name|
      define_method(name) do |*arguments, **options, &block|
        super(*arguments, **options, &block)
      rescue StandardError
        false
      end
    end
  end
end
