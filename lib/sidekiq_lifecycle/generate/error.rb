# frozen_string_literal: true

module SidekiqLifecycle
  module Generate
    # What was asked for cannot be written; the message says why and what to do.
    class Error < StandardError; end
  end
end
