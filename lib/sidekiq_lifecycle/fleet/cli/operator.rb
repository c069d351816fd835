# frozen_string_literal: true

require "etc"
require "socket"

module SidekiqLifecycle
  class Fleet
    module CLI
      # Who runs the command.
      #
      # @api private
      module Operator
        # @param options [Hash{String => Object}] the command's
        # @return [String] as `--by` says, or the user and the host
        def self.name(options)
          options["by"] || "#{ENV.fetch("SUDO_USER", nil) || user}@#{Socket.gethostname}"
        end

        # In a container the user may have no name.
        def self.user
          Etc.getpwuid.name
        rescue ArgumentError
          "uid #{::Process.uid}"
        end
        private_class_method :user
      end
    end
  end
end
