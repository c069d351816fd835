# frozen_string_literal: true

# Capistrano's deploys look after the workers of shop. Made by: sidekiq-lifecycle generate capistrano
#
# The Capfile that `cap install` writes loads this file: Dir.glob("lib/capistrano/tasks/*.rake").each { |r| import r }
# The hosts with workers need the role :worker. What config/deploy.rb or a stage sets comes later than this, and wins.

require "sidekiq_lifecycle/capistrano"

namespace :load do
  task :defaults do
    # The units of each host, restarted together. For several workers on a host: %w[sidekiq@1 sidekiq@2].
    # deploy/systemd/sudoers has lines for these two, word by word; for others write your own.
    set :sidekiq_units, %w[sidekiq]

    # How long a deploy waits for the jobs in hand; longer than your longest ordinary job. When it is over, the deploy
    # fails, and nothing has been published.
    set :sidekiq_drain_timeout, "10m"
  end
end
