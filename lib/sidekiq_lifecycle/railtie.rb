# frozen_string_literal: true

require "rails/railtie"

module SidekiqLifecycle
  # In Rails the gem is loaded long before an initializer installs it. What cannot wait so long is done here.
  class Railtie < ::Rails::Railtie
    config.before_configuration { SidekiqLifecycle.before_boot }
  end
end
