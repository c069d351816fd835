# frozen_string_literal: true

require "rails/railtie"

module SidekiqLifecycle
  # Rails loads the gem long before an initializer installs it. What cannot wait for that happens here.
  class Railtie < ::Rails::Railtie
    config.before_configuration { SidekiqAdapter.guard_boot }
    # An application that has the gem and does not install it keeps its signals.
    config.after_initialize { BootGuard.release unless SidekiqLifecycle.status }
  end
end
