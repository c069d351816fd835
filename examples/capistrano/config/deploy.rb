# frozen_string_literal: true

set :application, "shop"
set :repo_url, "git@git.example.com:shop.git"
set :deploy_to, "/srv/shop"

# A wait for long jobs prints little. Without this, a router may drop the idle connection.
set :ssh_options, keepalive: true, keepalive_interval: 30

# Two workers on each host. This overrides lib/capistrano/tasks/sidekiq.rake.
set :sidekiq_units, %w[sidekiq@1 sidekiq@2]
