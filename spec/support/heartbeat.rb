# frozen_string_literal: true

# Ruby for an application: more frequent heartbeats, so that an example need not wait 10 s for each.
QUICK_HEARTBEAT = <<~RUBY
  Sidekiq::Launcher.send(:remove_const, :BEAT_PAUSE)
  Sidekiq::Launcher::BEAT_PAUSE = 0.2
RUBY

# One heartbeat at the start, and no further one while an example runs.
RARE_HEARTBEAT = QUICK_HEARTBEAT.sub("0.2", "3600").freeze
