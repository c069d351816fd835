# frozen_string_literal: true

# Polls a block in a thread and records every change, to test that something never happens, not even for a moment.
class Watcher
  # @yieldreturn what to record
  def initialize(&look)
    @changes = [look.call]
    @thread = Thread.new do
      until @done
        now = look.call
        @changes << now if now != @changes.last
        sleep 0.0005
      end
    end
  end

  # Ends the watch.
  # @return [Array] the recorded values, without repetitions
  def changes
    @done = true
    @thread.join
    @changes
  end
end
