# frozen_string_literal: true

require_relative "error"

module SidekiqLifecycle
  module Generate
    # Where an application lies on its hosts, and whose it is there, as Capistrano's own files say it. They are read as
    # text, and not carried out. A stage's file comes on top of config/deploy.rb, as with Capistrano.
    #
    # @api private
    class Hosts
      # Who logs in: an option of a server, a role or ssh, or a part of a host's name.
      USER = /(?:\buser:|:user\s*=>|["']user["']\s*=>)\s*(fetch[( ]\s*:user\b|[^\s,)}]+)/
      LOGIN = /["'\s{\[(]([\w.-]+)@[\w.-]+/
      private_constant :USER, :LOGIN

      # @param root [String] the application's root
      # @param stage [String] Capistrano's stage, which is called as the environment
      # @param name [String] what counts where Capistrano's files do not say it, or are not there
      def initialize(root, stage, name)
        @name = name
        files = ["config/deploy.rb", "config/deploy/#{stage}.rb"].map { |file| File.join(root, file) }
        texts = files.select { |file| File.file?(file) }.map { |file| File.read(file).scrub }
        @texts = texts.map { |text| text.gsub(/(^|\s)#(?!\{).*/, "") }
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
      # @raise [Error] if that is known only when Capistrano's files are carried out, or it is not always the same one
      def user
        names = logins.uniq
        return names.first || @name[0, 32] if names.size < 2

        raise Error, "Capistrano's files name several users, #{names.join(", ")}; say whose they are: --user NAME"
      end

      private

      def application = set(:application) || @name

      # Of hosts that are said to have workers, or else of all; or what counts for every host. A stage's come first.
      def logins
        [/server|role/, /set[( ]\s*:ssh_options/].product(@texts.reverse).each do |word, text|
          all = statements(text, word)
          workers = all.grep(/\bworker\b/)
          names = (workers.any? ? workers : all).flat_map { |statement| users(statement) }
          return names if names.any?
        end
        []
      end

      # Each with the lines in which it goes on: further in than the first, or beginning with a quote or a bracket.
      def statements(text, word)
        text.to_enum(:scan, /^([ \t]*)(?:#{word})\b.*(?:\n(?:\1[ \t]+\S|\1[)\]}"']).*)*/).map { Regexp.last_match(0) }
      end

      def users(statement)
        named = statement.scan(USER).flatten.map do |word|
          word.start_with?("fetch") ? set(:user) : word[/\A["':]([\w.-]+)["']?\z/, 1]
        end
        return named + statement.scan(LOGIN).flatten unless named.include?(nil)

        raise Error, "who logs in is known only when Capistrano's files are carried out (#{statement.strip}); say " \
                     "whose the workers are: --user NAME"
      end

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
