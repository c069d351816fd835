# frozen_string_literal: true

# Looks at something over and over, on a thread of its own, and keeps every change: for what must never happen, not
# even for a moment.
class Watcher
  # @yield what is looked at
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
  # @return [Array] what was seen, without repetitions
  def changes
    @done = true
    @thread.join
    @changes
  end
end
