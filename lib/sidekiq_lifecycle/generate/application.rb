# frozen_string_literal: true

require "erb"
require "shellwords"
require "yaml"
require_relative "error"
require_relative "hosts"

module SidekiqLifecycle
  module Generate
    # What an application's own files say of its Sidekiq. Nothing of the application is loaded, but the ERB of
    # Sidekiq's configuration file is carried out, as it is whenever a Sidekiq starts.
    #
    # @api private
    class Application
      # Sidekiq's own `:timeout`, where nobody sets another (`config.rb`, in 6.x `sidekiq.rb`).
      DEFAULT_TIMEOUT = 25
      # Where Sidekiq looks for its configuration (`cli.rb`, `setup_options`).
      CONFIG_FILES = %w[config/sidekiq.yml config/sidekiq.yml.erb].freeze

      # @return [String] the environment that is deployed
      attr_reader :environment

      # @param root [String] the application's root
      # @param given [Hash{String => Object}] what Sidekiq is started with: `config`, `environment`, `require`,
      #   `timeout`, `queues`
      # @raise [Error] if its files cannot be read, or do not say enough
      def initialize(root, given)
        @root = File.expand_path(root)
        raise Error, "#{root} is no directory; point --root to the application's root" unless File.directory?(@root)

        @given = given
        @environment = given.fetch("environment")
        @settings = settings
        timeout
        arguments
      end

      # @return [String] what it may be called in every platform's own names: letters, digits and hyphens
      def name
        tag = @settings[:tag].to_s
        name = (tag.empty? ? File.basename(@root) : tag).downcase.gsub(/[^a-z0-9]+/, "-").gsub(/\A[^a-z]+|-+\z/, "")
        name.empty? ? "sidekiq" : name[0, 40].delete_suffix("-")
      end

      # @return [Boolean] whether it is one, as Sidekiq looks at it (`cli.rb`, `validate!`)
      def rails? = File.exist?(path("config/application.rb"))

      # @return [Integer] the seconds that Sidekiq leaves its jobs after TERM (`-t`)
      def timeout
        timeout = @given["timeout"] || @settings[:timeout] || DEFAULT_TIMEOUT
        return timeout if timeout.is_a?(Integer) && timeout.positive?

        raise Error, "#{config_file} has :timeout: #{timeout.inspect}; set it to a whole number of seconds above 0"
      end

      # @return [String] where {timeout} is from
      def timeout_source
        return "-t" if @given["timeout"]

        @settings[:timeout] ? config_file : "Sidekiq's own"
      end

      # @return [Array<String>] the names of the queues that it works on, those of its capsules too
      def queues
        lists = @given["queues"].any? ? [@given["queues"]] : [@settings[:queues], *capsules.map { |one| one[:queues] }]
        names = lists.flat_map { |list| Array(list) }.map { |queue| Array(queue).first.to_s.split(",").first }
        names.compact.uniq.then { |list| list.empty? ? ["default"] : list }
      end

      # @return [Integer, nil] the jobs that it works on at a time; nil: what is Sidekiq's own
      def concurrency
        concurrency = @settings[:concurrency]
        concurrency && (concurrency.to_i + capsules.sum { |one| one[:concurrency].to_i })
      end

      # @return [Array<String>] the command that starts it
      def command = ["bundle", "exec", "sidekiq", *arguments]

      # @return [String] the same for a shell
      def command_line = Shellwords.join(command)

      # @return [String, nil] the lifecycle directory, where it is not `tmp/sidekiq` below the root
      def lifecycle_directory
        directory = ENV.fetch("SIDEKIQ_LIFECYCLE_DIR", "")
        directory unless directory.empty?
      end

      # @return [String] where its releases lie on a host
      # @raise [Error] if Capistrano's configuration cannot be read for it
      def deploy_to = hosts.deploy_to

      # @return [String] whose the workers are on a host
      def user = hosts.user

      private

      def path(name) = File.join(@root, name)
      def hosts = @hosts ||= Hosts.new(@root, @environment, name)

      # Below the root; nil if there is none.
      def config_file = @given["config"] || CONFIG_FILES.find { |name| File.exist?(path(name)) }

      # What Sidekiq's `parse_config` makes of the file, with the environment's own section on top.
      def settings
        said = config_file ? symbolize(parse(path(config_file)) || {}) : {}
        raise Error, "#{config_file} is no list of settings, such as :timeout: 25" unless said.is_a?(Hash)

        said.merge(said[@environment.to_sym] || {})
      end

      def parse(file)
        text = ERB.new(File.read(file), trim_mode: "-").tap { |erb| erb.filename = file }.result
        YAML.safe_load(text, permitted_classes: [Symbol], aliases: true)
      rescue ScriptError, StandardError => e
        raise Error, "#{config_file} cannot be read: #{e.class}: #{e.message.lines.first&.chomp}"
      end

      def symbolize(value)
        return value unless value.is_a?(Hash)

        value.to_h { |key, inner| [key.to_sym, symbolize(inner)] }
      end

      def capsules = (@settings[:capsules] || {}).values

      def arguments
        [*option("-C", @given["config"]), *option("-e", (@environment unless rails?)), *option("-r", required),
         *option("-t", @given["timeout"]), *@given["queues"].flat_map { |queue| ["-q", queue] }]
      end

      def option(name, value) = value ? [name, value.to_s] : []

      def required
        return @given["require"] if @given["require"] || rails? || @settings[:require]

        raise Error, "there is no Rails application in #{@root}, and nothing says which file loads the one that is; " \
                     "say it as you say it to sidekiq, for instance: -r ./app.rb"
      end
    end
  end
end
