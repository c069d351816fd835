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

    # Has the native command parse a command line of `fleet` or `generate`. If that asks for help or is misuse, the
    # native command replaces this process, and answers.
    #
    # @param arguments [Array<String>]
    # @return [Hash{String => Object}] what it asks for, as `src/cli/fleet.rs` and `src/cli/generate.rs` describe it
    def self.parse(arguments)
      require "json"
      # Without a locale it would be taken for ASCII.
      request = IO.popen([[built, NAME], "parse", "--", *arguments], "r:UTF-8", err: File::NULL, &:read)
      Process.last_status.success? ? JSON.parse(request) : exec([built, NAME], *arguments)
    end

    def self.built
      path || abort("#{NAME}: the native command is missing because the gem's native part was not built; " \
                    "run: gem pristine sidekiq_lifecycle")
    end
    private_class_method :built
  end
end
