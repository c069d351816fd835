# frozen_string_literal: true

module SidekiqLifecycle
  # A trial by the doctor (`doctor -- COMMAND`): a stop that takes as long as it may. An idle Sidekiq would end at once,
  # and not show who kills it a few seconds later.
  #
  # @api private
  module Trial
    # The doctor sets it.
    VARIABLE = "SIDEKIQ_LIFECYCLE_TRIAL"

    # Of the 4 s that Sidekiq takes beside `-t`, those that come before its own end.
    REST = 3.5

    # As if a job were in hand that ends with its last chance.
    #
    # @param timeout [Numeric] Sidekiq's `-t`, in seconds
    # @return [void]
    def self.take_time(timeout)
      sleep(timeout + REST) if ENV.key?(VARIABLE)
    end
  end
end
