# frozen_string_literal: true

module SidekiqLifecycle
  # The gem's command `sidekiq-lifecycle`. Nearly everything is done by the native command, which is installed beside
  # the native extension. This file loads nothing else, so that replacing the process costs no more than starting Ruby.
  module CLI
    # The command's name.
    NAME = "sidekiq-lifecycle"

    # @return [String, nil] the path of the native command; nil if the gem's native part was not built
    def self.path
      directories = $LOAD_PATH.map { |directory| File.join(directory.to_s, "sidekiq_lifecycle") }
      directories.map { |directory| File.join(directory, NAME) }.find { |file| File.file?(file) }
    end

    # Runs `fleet` and `generate` in this process, and replaces it by the native command for everything else.
    #
    # @param arguments [Array<String>] the command line
    def self.run(arguments)
      case arguments.first
      when "fleet"
        require "sidekiq_lifecycle/fleet/cli/command"
        Fleet::CLI::Command.run(arguments)
      when "generate"
        require "sidekiq_lifecycle/generate/command"
        Generate::Command.run(arguments)
      end
      exec([built, NAME], *arguments)
    end

    # Parses a command line of `fleet` or `generate`. If the parser has answered it (misuse, `--help`), this process
    # exits.
    #
    # @param arguments [Array<String>]
    # @return [Hash{String => Object}] what it asks for, as `src/cli/fleet.rs` and `src/cli/generate.rs` describe it
    def self.parse(arguments)
      built
      require "json"
      require_relative "native_extension"
      request, exit_code = Native.parse_command_line([NAME, *arguments])
      request ? JSON.parse(request) : exit(exit_code)
    end

    def self.built
      path || abort("#{NAME}: the native command is missing because the gem's native part was not built; " \
                    "run: gem pristine sidekiq_lifecycle")
    end
    private_class_method :built
  end
end
