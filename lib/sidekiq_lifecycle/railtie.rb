# frozen_string_literal: true

require "rails/railtie"

module SidekiqLifecycle
  # Rails loads the gem long before an initializer installs it. What cannot wait for that happens here.
  class Railtie < ::Rails::Railtie
    config.before_configuration { Railtie.guard_boot }
    # An application that has the gem and does not install it keeps its signals.
    config.after_initialize { Boot.let_go unless SidekiqLifecycle.status }

    # Guards the boot of the application, if a Sidekiq boots it. The directory is the one known then;
    # {SidekiqLifecycle.install} clears another.
    #
    # @api private
    def self.guard_boot
      return unless Boot.underway?

      Boot.hold
      configuration = Configuration.new
      Boot.relay(configuration)
      Native.clear(configuration.directory)
    rescue StandardError => e
      Complaints.say(e.message)
    end
  end
end
