# frozen_string_literal: true

require_relative "worker"

# A real process in which Sidekiq is, or may be, though the harness has not written its application.
class Program < Worker
  def initialize(*command, app:, name:, **options) # rubocop:disable Lint/MissingSuper
    launch(*command, app:, name:, **options)
  end
end
