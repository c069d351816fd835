# frozen_string_literal: true

require_relative "error"

module SidekiqLifecycle
  module Generate
    # Reads from Capistrano's own files where an application is on its hosts, and which user runs it. The files are read
    # as text and not evaluated. A stage's file overrides config/deploy.rb, as in Capistrano.
    #
    # @api private
    class CapistranoConfig
      # The login user: an option of a server, a role or ssh, or a part of a host's name.
      USER = /(?:\buser:|:user\s*=>|["']user["']\s*=>)\s*(fetch[( ]\s*:user\b|[^\s,)}]+)/
      LOGIN = /["'\s{\[(]([\w.-]+)@[\w.-]+/
      private_constant :USER, :LOGIN

      # @param root [String] the application's root
      # @param stage [String] Capistrano's stage, which has the name of the environment
      # @param name [String] the default for settings that Capistrano's files lack
      def initialize(root, stage, name)
        @name = name
        files = ["config/deploy.rb", "config/deploy/#{stage}.rb"].map { |file| File.join(root, file) }
        texts = files.select { |file| File.file?(file) }.map { |file| File.read(file).scrub }
        @texts = texts.map { |text| text.gsub(/(^|\s)#(?!\{).*/, "") }
      end

      # @return [String] the directory of its releases; below /srv without Capistrano
      # @raise [Error] if that is known only when Capistrano's files are evaluated
      def deploy_to
        return "/srv/#{@name}" if @texts.empty?

        value = set(:deploy_to) { |path| path.gsub(/\#\{fetch[( ]:application\)?\}/) { application } }
        # Capistrano's own default (`capistrano/defaults.rb`).
        value || "/var/www/#{application}"
      end

      # @return [String] the user that runs the workers: the one that logs in when Capistrano deploys
      # @raise [Error] if that is known only when Capistrano's files are evaluated, or there are several
      def user
        names = logins.uniq
        return names.first || @name[0, 32] if names.size < 2

        raise Error, "Capistrano's files name several users, #{names.join(", ")}; set the one that runs the workers: " \
                     "--user NAME"
      end

      private

      def application = set(:application) || @name

      # The login users of hosts with the role `worker`, else of all hosts, else the one for every host. The stage's
      # file comes first.
      def logins
        [/server|role/, /set[( ]\s*:ssh_options/].product(@texts.reverse).each do |word, text|
          all = statements(text, word)
          workers = all.grep(/\bworker\b/)
          names = (workers.any? ? workers : all).flat_map { |statement| users(statement) }
          return names if names.any?
        end
        []
      end

      # Statements with their continuation lines, which are indented or begin with a quote or a bracket.
      def statements(text, word)
        text.to_enum(:scan, /^([ \t]*)(?:#{word})\b.*(?:\n(?:\1[ \t]+\S|\1[)\]}"']).*)*/).map { Regexp.last_match(0) }
      end

      def users(statement)
        named = statement.scan(USER).flatten.map do |word|
          word.start_with?("fetch") ? set(:user) : word[/\A["':]([\w.-]+)["']?\z/, 1]
        end
        return named + statement.scan(LOGIN).flatten unless named.include?(nil)

        raise Error, "the login user is known only when Capistrano's files are evaluated (#{statement.strip}); set " \
                     "the user that runs the workers: --user NAME"
      end

      # The last value of a setting; nil if it was not set.
      # @yield [String] the text between the quotes, to be interpolated
      def set(setting)
        value = @texts.join("\n").scan(/^\s*set[( ]\s*:#{setting},\s*(.*)$/).last&.first
        return unless value

        text = value[/\A(["'])((?:(?!\1).)+)\1(?:\.freeze)?\s*\)?\s*(?:#.*)?\z/, 2]
        text = yield text if text && block_given?
        return text if text && !text.include?("\#{")

        raise Error, "Capistrano's files set :#{setting} to #{value}, which is known only when they are evaluated; " \
                     "write it as a plain string in config/deploy.rb"
      end
    end
  end
end
