# frozen_string_literal: true

# Ruby for an application: more frequent heartbeats, so that an example need not wait 10 s for each.
QUICK_HEARTBEAT = <<~RUBY
  Sidekiq::Launcher.send(:remove_const, :BEAT_PAUSE)
  Sidekiq::Launcher::BEAT_PAUSE = 0.2
  # Sidekiq 6 goes on after it has left Redis (`launcher.rb`, `clear_heartbeat`), and with frequent heartbeats would come
  # back there before the process has exited.
  Sidekiq::Launcher.prepend(Module.new do
    private

    def clear_heartbeat(...)
      @has_left_redis = true
      super
    end

    def ❤(...) = @has_left_redis ? nil : super
  end)
RUBY

# One heartbeat at the start, and no further one while an example runs.
RARE_HEARTBEAT = QUICK_HEARTBEAT.sub("0.2", "3600").freeze
