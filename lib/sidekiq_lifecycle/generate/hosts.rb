# frozen_string_literal: true

require_relative "error"

module SidekiqLifecycle
  module Generate
    # Where an application lies on its hosts, and whose it is there, as Capistrano's own files say it. They are read as
    # text, and not carried out. A stage's file comes on top of config/deploy.rb, as with Capistrano.
    #
    # @api private
    class Hosts
      # @param root [String] the application's root
      # @param stage [String] Capistrano's stage, which is called as the environment
      # @param name [String] what counts where Capistrano's files do not say it, or are not there
      def initialize(root, stage, name)
        @name = name
        files = ["config/deploy.rb", "config/deploy/#{stage}.rb"].map { |file| File.join(root, file) }
        @text = files.select { |file| File.file?(file) }.map { |file| File.read(file).gsub(/^\s*#.*/, "") }.join("\n")
      end

      # @return [String] where its releases lie; without Capistrano in /srv
      # @raise [Error] if that is known only when Capistrano's files are carried out
      def deploy_to
        return "/srv/#{@name}" if @text.empty?

        said = set(:deploy_to)
        # Capistrano's own default (`capistrano/defaults.rb`).
        return "/var/www/#{application}" unless said

        path = string(said)&.gsub(/\#\{fetch[( ]:application\)?\}/, application)
        return path if path && !path.include?("\#{")

        raise Error, "Capistrano's files set :deploy_to to #{said}, which is known only when they are carried out; " \
                     "write it as a plain string in config/deploy.rb"
      end

      # @return [String] whose the workers are: who logs in when Capistrano deploys
      def user = @text[/\buser:\s*["']([\w.-]+)["']/, 1] || @name

      private

      def application = set(:application)&.then { |said| string(said) } || @name

      # What a setting was set to last, as it stands there.
      def set(setting) = @text.scan(/^\s*set[( ]\s*:#{setting},\s*(.*)$/).last&.first

      def string(ruby) = ruby[/\A(["'])(.+?)\1/, 2]
    end
  end
end
