# frozen_string_literal: true

require_relative "../native_command"
require_relative "application"
require_relative "error"
require_relative "target"
require_relative "writer"

module SidekiqLifecycle
  # The files with which an application's Sidekiq is deployed.
  #
  # @api private
  module Generate
    # The command `sidekiq-lifecycle generate`: carries out what the native command has read and checked.
    #
    # @api private
    module Command
      # Reads the arguments, does what they ask, and ends the process.
      #
      # @param arguments [Array<String>] of the whole command, with `generate`
      def self.main(arguments)
        # Whatever the locale is, as in a container without one.
        Encoding.default_external = Encoding::UTF_8
        options = NativeCommand.read(arguments)
        application = Application.new(options.fetch("root"), options)
        files = Target.new(options.fetch("target"), application).files
        Writer.new(application.root, force: options.fetch("force"), dry_run: options.fetch("dry_run")).write(files)
        exit
      rescue Error => e
        $stdout.flush # the diff comes before what is said of it
        warn "sidekiq-lifecycle: #{Text.one_line(Text.masked(e.message))}"
        exit e.is_a?(Misuse) ? 2 : 1
      rescue Errno::EPIPE
        exit 1 # whoever read has gone
      rescue Interrupt
        exit 130
      end
    end
  end
end
