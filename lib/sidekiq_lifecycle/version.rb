# frozen_string_literal: true

module SidekiqLifecycle
  # The version of the gem, the Rust core and the native command; they are always the same.
  VERSION = "0.1.0"
end
