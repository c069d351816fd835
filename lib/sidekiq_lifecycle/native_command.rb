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
      directories.map { |directory| File.join(directory, NAME) }.find { |file| File.executable?(file) }
    end

    # Becomes the native command.
    #
    # @param arguments [Array<String>] what it is called with
    def self.run(arguments)
      native = path
      unless native
        abort "#{NAME}: the native command is missing because the gem's native part was not built; " \
              "run: gem pristine sidekiq_lifecycle"
      end
      exec([native, NAME], *arguments)
    end
  end
end
