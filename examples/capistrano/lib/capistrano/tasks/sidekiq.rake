# frozen_string_literal: true

# Quiets, drains and restarts the workers of shop in each deploy. Made by: sidekiq-lifecycle generate capistrano
#
# The Capfile that `cap install` writes loads this file: Dir.glob("lib/capistrano/tasks/*.rake").each { |r| import r }
# The hosts with workers need the role :worker. Settings in config/deploy.rb or a stage take precedence over this file.

require "sidekiq_lifecycle/capistrano"

namespace :load do
  task :defaults do
    # The units of each host, which are restarted together. For several workers on a host: %w[sidekiq@1 sidekiq@2].
    # deploy/systemd/sudoers has lines for exactly these two values. For other units, add your own lines.
    set :sidekiq_units, %w[sidekiq]

    # How long a deploy waits for running jobs. Set it longer than your longest ordinary job. When it expires, the
    # deploy fails before it publishes anything.
    set :sidekiq_drain_timeout, "10m"
  end
end
