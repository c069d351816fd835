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

    # Lets the native command read and check the arguments. If it has answered by itself (misuse, `--help`), this
    # process exits as it did.
    #
    # @param arguments [Array<String>]
    # @return [Hash{String => Object}] what is asked for, as `src/cli/hand_over.rs` writes it
    def self.read(arguments)
      require "json"
      reader, writer = IO.pipe
      environment = { "SIDEKIQ_LIFECYCLE_ANSWER" => writer.fileno.to_s }
      pid = spawn(environment, [built, NAME], *arguments, writer => writer)
      writer.close
      answer = reader.read
      status = Process.wait2(pid).last
      exit(status.exitstatus || 1) if answer.empty?
      JSON.parse(answer)
    end

    def self.built
      path || abort("#{NAME}: the native command is missing because the gem's native part was not built; " \
                    "run: gem pristine sidekiq_lifecycle")
    end
    private_class_method :built
  end
end
