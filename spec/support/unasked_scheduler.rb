# frozen_string_literal: true

# What goes to the end of an application whose Redis, or whose descriptors, are gone. Told to stop soon after its start,
# Sidekiq's scheduler asks Redis once more, and takes the whole process with it if it cannot (`scheduled.rb`,
# `initial_wait`). That is not what these examples are about.
UNASKED_SCHEDULER = <<~RUBY
  require "sidekiq/scheduled"
  Sidekiq::Scheduled::Poller.prepend(Module.new { def cleanup = nil })
RUBY
