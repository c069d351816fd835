# frozen_string_literal: true

require_relative "error"

module SidekiqLifecycle
  module Generate
    # Where an application lies on its hosts, and whose it is there, as Capistrano's own files say it. They are read as
    # text, and not carried out. A stage's file comes on top of config/deploy.rb, as with Capistrano.
    #
    # @api private
    class Hosts
      # Who logs in: an option of a server, a role or ssh; or a part of a host's name.
      USER = /(?:\buser:|:user\s*=>)\s*["']([\w.-]+)["']/
      LOGIN = /^\s*(?:server|role)\b[^#\n]*?["'{\s]([\w.-]+)@/
      private_constant :USER, :LOGIN

      # @param root [String] the application's root
      # @param stage [String] Capistrano's stage, which is called as the environment
      # @param name [String] what counts where Capistrano's files do not say it, or are not there
      def initialize(root, stage, name)
        @name = name
        files = ["config/deploy.rb", "config/deploy/#{stage}.rb"].map { |file| File.join(root, file) }
        @texts = files.select { |file| File.file?(file) }.map { |file| File.read(file).gsub(/^\s*#.*/, "") }
      end

      # @return [String] where its releases lie; without Capistrano in /srv
      # @raise [Error] if that is known only when Capistrano's files are carried out
      def deploy_to
        return "/srv/#{@name}" if @texts.empty?

        said = set(:deploy_to) { |path| path.gsub(/\#\{fetch[( ]:application\)?\}/) { application } }
        # Capistrano's own default (`capistrano/defaults.rb`).
        said || "/var/www/#{application}"
      end

      # @return [String] whose the workers are: who logs in when Capistrano deploys
      def user = @texts.reverse.filter_map { |text| text[USER, 1] || text[LOGIN, 1] }.first || @name

      private

      def application = set(:application) || @name

      # What a setting was set to last; nil if it wasn't.
      # @yield [String] what stands between the quotes, to be told what it means
      def set(setting)
        said = @texts.join("\n").scan(/^\s*set[( ]\s*:#{setting},\s*(.*)$/).last&.first
        return unless said

        text = said[/\A(["'])((?:(?!\1).)+)\1(?:\.freeze)?\s*\)?\s*(?:#.*)?\z/, 2]
        text = yield text if text && block_given?
        return text if text && !text.include?("\#{")

        raise Error, "Capistrano's files set :#{setting} to #{said}, which is known only when they are carried out; " \
                     "write it as a plain string in config/deploy.rb"
      end
    end
  end
end
