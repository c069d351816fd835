# frozen_string_literal: true

module SidekiqLifecycle
  module Generate
    # The files cannot be written. The message says why and what to do.
    class Error < StandardError; end

    # The command line or the environment is wrong: exit code 2.
    class Misuse < Error; end
  end
end
