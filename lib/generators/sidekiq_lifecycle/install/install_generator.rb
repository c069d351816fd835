# frozen_string_literal: true

require "rails/generators/base"

module SidekiqLifecycle
  # Generators for `rails generate`.
  #
  # @api private
  module Generators
    # `rails generate sidekiq_lifecycle:install`: writes the initializer that installs the lifecycle into Sidekiq.
    #
    # @api private
    class InstallGenerator < ::Rails::Generators::Base
      desc "Writes an initializer that installs sidekiq_lifecycle into this application's Sidekiq."
      source_root File.expand_path("templates", __dir__)

      # A separate file works beside an existing `configure_server`, in any order.
      def write_initializer
        copy_file "sidekiq_lifecycle.rb.tt", "config/initializers/sidekiq_lifecycle.rb"
      end
    end
  end
end
