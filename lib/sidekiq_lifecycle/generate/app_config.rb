# frozen_string_literal: true

require "erb"
require "shellwords"
require "yaml"
require_relative "../native_extension"
require_relative "error"
require_relative "../text"
require_relative "capistrano_config"

module SidekiqLifecycle
  module Generate
    # Reads an application's own files for the settings of its Sidekiq. It does not load the application, but evaluates
    # the ERB of Sidekiq's configuration file, as every start of Sidekiq does.
    #
    # @api private
    class AppConfig
      # Sidekiq's default `:timeout` (`config.rb`, in 6.x `sidekiq.rb`).
      DEFAULT_TIMEOUT = Native::DEFAULT_TIMEOUT.to_i
      # Its default `:concurrency` in the versions that have capsules (`config.rb`).
      DEFAULT_CONCURRENCY = 5
      # Where Sidekiq looks for its configuration (`cli.rb`, `setup_options`).
      CONFIG_FILES = %w[config/sidekiq.yml config/sidekiq.yml.erb].freeze
      # Docker Compose files that an application may already have.
      COMPOSE_FILES = %w[compose.yaml compose.yml docker-compose.yaml docker-compose.yml].freeze
      # Images of servers that Sidekiq can use as Redis.
      REDIS = %r{(?:\A|/)(?:redis|redis-stack|redis-stack-server|valkey|keydb|dragonfly)(?:[:@]|\z)}
      # A valid user name (useradd(8)), which sudoers and units need no quotes for.
      USER = /\A[A-Za-z_][\w.-]{0,31}\z/
      private_constant :REDIS, :USER

      # @return [String] its root, as an absolute path
      attr_reader :root
      # @return [String] the deployed environment
      attr_reader :environment

      # @param root [String] the application's root
      # @param given [Hash{String => Object}] the options that Sidekiq is started with: `concurrency`, `config`,
      #   `environment`, `require`, `tag`, `timeout`, `queues`; `user`, the user that runs the workers on a host; and
      #   `probe`, how Kubernetes asks its probes
      # @raise [Error] if its files cannot be read, or lack a setting
      def initialize(root, given)
        @root = File.expand_path(root)
        raise Error, "#{root} is not a directory; point --root to the application's root" unless File.directory?(@root)

        @given = given
        @environment = given.fetch("environment")
        @settings = settings
        arguments
      end

      # @return [Boolean] whether Kubernetes asks its probes over HTTP
      def http_probes? = @given["probe"] == "http"

      # @return [String] a name that every platform accepts: letters, digits and hyphens
      def name
        tag = (@given["tag"] || @settings[:tag]).to_s
        name = (tag.empty? ? File.basename(@root) : tag).downcase.gsub(/[^a-z0-9]+/, "-").gsub(/\A[^a-z]+|-+\z/, "")
        name.empty? ? "sidekiq" : name[0, 40].delete_suffix("-")
      end

      # @return [Boolean] whether it is a Rails application for Sidekiq (`cli.rb`, `validate!`)
      def rails?
        File.exist?(File.join(path(@given["require"] || @settings[:require] || "."), "config/application.rb"))
      end

      # @return [Integer] Sidekiq's shutdown timeout in seconds (`-t`)
      def timeout = @given["timeout"] || @settings[:timeout] || DEFAULT_TIMEOUT

      # @return [String] where {timeout} comes from
      def timeout_source
        return "-t" if @given["timeout"]

        @settings[:timeout] ? config_file : "Sidekiq's own"
      end

      # @return [Array<String>] the names of its queues, including those of its capsules
      def queues
        own = [@given["queues"], @settings[:queues]].map { |list| names(list) }.find(&:any?)
        [*(own || ["default"]), *capsules.flat_map { |one| names(one[:queues]) }].uniq
      end

      # @return [Integer, nil] the number of jobs it runs at once; nil: Sidekiq's default
      def concurrency
        own = @given["concurrency"] || @settings[:concurrency]
        return own if capsules.empty?

        (own || DEFAULT_CONCURRENCY) + capsules.sum { |one| one[:concurrency] || 0 }
      end

      # @return [Array<String>] the command that starts it
      def command = ["bundle", "exec", "sidekiq", *arguments]

      # @return [String] the same for a shell
      def command_line = Shellwords.join(command)

      # @return [String, nil] the lifecycle directory; nil: `tmp/sidekiq` below the root
      # @raise [Misuse] if it has control characters
      def lifecycle_directory
        directory = ENV.fetch(Native::DIRECTORY_VARIABLE, "")
        return if directory.empty?
        return directory if Text.one_line(directory) == directory

        raise Misuse, "SIDEKIQ_LIFECYCLE_DIR is #{directory.inspect}; set it to a path without control characters"
      end

      # @return [Array(String, Boolean), nil] the Redis service in its own Docker Compose file, and whether it has a
      #   health check
      # @raise [Error] if that file cannot be read
      def redis_in_compose
        file = COMPOSE_FILES.find { |name| File.exist?(path(name)) } or return
        services = Hash(YAML.safe_load_file(path(file), aliases: true))["services"].to_h
        name, service = services.find { |_, service| service.to_h["image"].to_s.match?(REDIS) }
        return unless name
        return [name, service.key?("healthcheck")] if name.to_s.match?(/\A[\w.-]+\z/)

        raise Error, "#{file} calls a service #{name.inspect}; name it in letters, digits and . _ -"
      rescue Error
        raise
      rescue StandardError => e
        raise Error, "#{file} cannot be read: #{Text.error(e)}"
      end

      # @return [String] the directory of its releases on a host
      # @raise [Error] if Capistrano's configuration does not show it
      def deploy_to
        path = capistrano.deploy_to
        return path if Text.one_line(path) == path && path.start_with?("/") && !path.match?(/["'\\]/)

        raise Error, "Capistrano's files set :deploy_to to #{path.inspect}; set it to an absolute path without " \
                     "quotes, backslashes and control characters"
      end

      # @return [String] the user that runs the workers on a host
      # @raise [Error] if Capistrano's configuration does not show it
      def user
        name = @given["user"] || capistrano.user
        return name if name.match?(USER)

        raise Error, "#{name.inspect} is not a user name; set the user that runs the workers: --user NAME"
      end

      private

      def path(name) = File.absolute_path(name, @root)
      def capistrano = @capistrano ||= CapistranoConfig.new(@root, @environment, name)

      # nil if there is none. If `-r` is a directory, Sidekiq looks there.
      def config_file
        return @given["config"] if @given["config"]

        place = [@given["require"]].compact.select { |name| File.directory?(path(name)) }
        CONFIG_FILES.map { |name| File.join(*place, name) }.find { |name| File.exist?(path(name)) }
      end

      # The file as Sidekiq's `parse_config` reads it, with the environment's section merged in.
      def settings
        content = config_file ? list(nil, parse(path(config_file))) : {}
        content = content.merge(list(@environment, content[@environment.to_sym]))
        capsules = list(:capsules, content[:capsules]).to_h { |name, capsule| [name, list(name, capsule)] }
        content.merge!(capsules:)
        [content, *capsules.values].each { |settings| check_numbers(settings) }
        content
      end

      def parse(file)
        erb = ERB.new(File.read(file), trim_mode: "-").tap { |erb| erb.filename = file }
        text = as_deployed { erb.result }
        YAML.safe_load(text, permitted_classes: [Symbol], aliases: true)
      rescue ScriptError, StandardError, SystemExit => e
        raise Error, "#{config_file} cannot be read: #{Text.error(e)}"
      end

      # Evaluates the file in the directory and environment in which Sidekiq does.
      def as_deployed(&block)
        before = ENV.to_h
        ENV.update(%w[APP_ENV RAILS_ENV RACK_ENV].to_h { |name| [name, @environment] })
        Dir.chdir(@root, &block)
      ensure
        ENV.replace(before)
      end

      def list(name, content)
        return {} if content.nil?
        return symbolize(content) if content.is_a?(Hash)

        where = "#{config_file}#{" has #{name}: #{content.inspect}, which" if name}"
        raise Error, "#{where} is not a list of settings, such as :timeout: 25"
      end

      def check_numbers(settings)
        settings.slice(:timeout, :concurrency).each do |name, value|
          next if value.nil? || (value.is_a?(Integer) && value.positive?)

          raise Error, "#{config_file} has :#{name}: #{value.inspect}; set it to a whole number above 0"
        end
      end

      def symbolize(value)
        return value unless value.is_a?(Hash)

        value.to_h { |key, inner| [key.to_s.to_sym, symbolize(inner)] }
      end

      def capsules = @settings.fetch(:capsules).values

      # Each may have a weight: `mail,2` or `[mail, 2]`.
      def names(queues)
        Array(queues).filter_map { |queue| Array(queue).first.to_s.split(",").first }
      end

      def arguments
        [*option("-C", @given["config"]), *option("-e", (@environment unless rails? && @environment == "production")),
         *option("-r", required), *option("-c", @given["concurrency"]), *option("-g", @given["tag"]),
         *option("-t", @given["timeout"]), *@given["queues"].flat_map { |queue| ["-q", queue] }]
      end

      def option(name, value) = value ? [name, value.to_s] : []

      def required
        return @given["require"] if @given["require"] || rails? || @settings[:require]

        raise Error, "there is no Rails application in #{@root}; set the file that loads the application as you do " \
                     "for sidekiq, for instance: -r ./app.rb"
      end
    end
  end
end
