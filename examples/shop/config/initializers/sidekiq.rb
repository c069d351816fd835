# frozen_string_literal: true

require "sidekiq"
require "sidekiq_lifecycle"

Sidekiq.configure_server do |config|
  SidekiqLifecycle.install(config) do |lifecycle|
    # The time that deploy/ and the compose file leave between SIGTERM and SIGKILL.
    lifecycle.stop_timeout = 60
  end
end
