# frozen_string_literal: true

module SidekiqLifecycle
  # What the native part raises. In Sidekiq's own hooks it is caught and logged.
  class Error < StandardError; end
end
