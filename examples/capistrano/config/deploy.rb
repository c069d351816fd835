# frozen_string_literal: true

set :application, "shop"
set :repo_url, "git@git.example.com:shop.git"
set :deploy_to, "/srv/shop"

# A wait for long jobs says little; without this a router may take the connection for dead.
set :ssh_options, keepalive: true, keepalive_interval: 30

# Two workers on each host. It wins over what lib/capistrano/tasks/sidekiq.rake sets.
set :sidekiq_units, %w[sidekiq@1 sidekiq@2]
