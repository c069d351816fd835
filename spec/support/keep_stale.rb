# frozen_string_literal: true

# Ruby for an application: its scheduler does not remove stale processes from Sidekiq's list, so that an example finds
# the one that it has put there. (`cleanup` is Sidekiq 7's and 8's; Sidekiq 6 removes them when it polls.)
KEEP_STALE = <<~RUBY
  require "sidekiq/scheduled"
  Sidekiq::Scheduled::Poller.send(:remove_const, :INITIAL_WAIT)
  Sidekiq::Scheduled::Poller::INITIAL_WAIT = 3600
  Sidekiq::Scheduled::Poller.prepend(Module.new { def cleanup = 0 })
RUBY
