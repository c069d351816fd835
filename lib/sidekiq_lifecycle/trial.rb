# frozen_string_literal: true

module SidekiqLifecycle
  # Makes a stop in a trial (`doctor -- COMMAND`) take as long as it may. An idle Sidekiq would exit at once, and not
  # show what would have killed it a few seconds later.
  #
  # @api private
  module Trial
    # The environment variable that the doctor sets.
    VARIABLE = Native::TRIAL_VARIABLE

    # Seconds that Sidekiq takes after `-t` before its own exit.
    REST = Native::SHUTDOWN_OVERHEAD - 0.5

    # Waits as long as if a job ended at the last moment.
    #
    # @param timeout [Numeric] Sidekiq's `-t`, in seconds
    # @return [void]
    def self.take_time(timeout)
      sleep(timeout + REST) if ENV.key?(VARIABLE)
    end
  end
end
