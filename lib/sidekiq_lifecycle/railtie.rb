# frozen_string_literal: true

require "rails/railtie"

module SidekiqLifecycle
  # In Rails the gem is loaded long before an initializer installs it. What cannot wait so long is done here.
  class Railtie < ::Rails::Railtie
    config.before_configuration { SidekiqLifecycle.before_boot }
    # An application that has the gem and does not install it keeps its signals.
    config.after_initialize { Boot.let_go unless SidekiqLifecycle.status }
  end
end
