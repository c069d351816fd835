# frozen_string_literal: true

require_relative "worker"

# A real process whose application the harness has not written, with or without a Sidekiq.
class Program < Worker
  def initialize(*command, app:, name:, **options) # rubocop:disable Lint/MissingSuper
    launch(*command, app:, name:, **options)
  end
end
