# frozen_string_literal: true

module SidekiqLifecycle
  module Generate
    # What was asked for cannot be written; the message says why and what to do.
    class Error < StandardError; end

    # It was called with something that it cannot use: exit code 2.
    class Misuse < Error; end
  end
end
