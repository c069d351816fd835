# frozen_string_literal: true

set :application, "shop"
set :repo_url, "git@git.example.com:shop.git"
set :deploy_to, "/srv/shop"

# A wait for long jobs says little; without this a router may take the connection for dead.
set :ssh_options, keepalive: true, keepalive_interval: 30

# What to restart, and how: with units of the system, `sudo systemctl`; with units of the user, `systemctl --user`.
set :sidekiq_units, %w[sidekiq@1 sidekiq@2]
set :sidekiq_systemctl, %w[sudo systemctl]

# Where the workers register. Their units set SIDEKIQ_LIFECYCLE_DIR to the same place: the default, tmp/sidekiq of the
# release, would be another one after each deploy.
set :sidekiq_lifecycle_dir, -> { shared_path.join("tmp/sidekiq") }

# How long a deploy waits for the jobs in hand. Longer than your longest ordinary job.
set :sidekiq_drain_timeout, "10m"
