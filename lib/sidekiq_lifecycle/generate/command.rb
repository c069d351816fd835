# frozen_string_literal: true

require_relative "../cli"
require_relative "../text"
require_relative "app_config"
require_relative "error"
require_relative "target"
require_relative "writer"

module SidekiqLifecycle
  # Writes the files that deploy an application's Sidekiq.
  #
  # @api private
  module Generate
    # Does what the command line `sidekiq-lifecycle generate` asks for. The native command has parsed it.
    #
    # @api private
    module Command
      # Reads the arguments, does what they ask for, and ends the process.
      #
      # @param arguments [Array<String>] of the whole command, with `generate`
      def self.run(arguments)
        # Containers often have no locale.
        Encoding.default_external = Encoding::UTF_8
        options = CLI.parse(arguments)
        application = AppConfig.new(options.fetch("root"), options)
        files = Target.new(options.fetch("target"), application).files
        Writer.new(application.root, force: options.fetch("force"), dry_run: options.fetch("dry_run")).write(files)
        exit
      rescue Error => e
        $stdout.flush # prints the diff before the error
        warn "sidekiq-lifecycle: #{Text.one_line(Text.masked(e.message))}"
        exit e.is_a?(Misuse) ? 2 : 1
      rescue Errno::EPIPE
        exit 1 # the reader has exited
      rescue Interrupt
        exit 130
      end
    end
  end
end
