# frozen_string_literal: true

module SidekiqLifecycle
  # Finds the native command, which is installed beside the native extension. Loads nothing else: handing over to it
  # should cost no more than starting Ruby does.
  module NativeCommand
    # What it is called.
    NAME = "sidekiq-lifecycle"

    # @return [String, nil] the path of the native command; nil if the gem's native part was not built
    def self.path
      directories = $LOAD_PATH.map { |directory| File.join(directory.to_s, "sidekiq_lifecycle") }
      directories.map { |directory| File.join(directory, NAME) }.find { |file| File.file?(file) }
    end

    # Becomes the native command; or, for what is Ruby's, has it read the arguments and carries them out.
    #
    # @param arguments [Array<String>] what it is called with
    def self.run(arguments)
      case arguments.first
      when "fleet"
        require "sidekiq_lifecycle/fleet/command"
        Fleet::Command.main(arguments)
      when "generate"
        require "sidekiq_lifecycle/generate/command"
        Generate::Command.main(arguments)
      end
      exec([built, NAME], *arguments)
    end

    # Has the native command read and check the arguments. Where it has answered itself (misuse, `--help`), this
    # process ends as it did.
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
