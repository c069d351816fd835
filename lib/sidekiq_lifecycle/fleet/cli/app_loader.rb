# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    module CLI
      # Loads an application as Sidekiq does (`cli.rb`, `boot_application`), to reach Redis as its workers do: with its
      # TLS, Sentinels and password. It starts no Sidekiq.
      #
      # @api private
      module AppLoader
        # The application cannot be loaded.
        class Error < SidekiqLifecycle::Error; end

        # This process is not a Sidekiq, so the application's call of `install` has no effect.
        module NoInstall
          # Does nothing.
          def install(*) = nil
        end

        # @param path [String, nil] a Rails application's directory or a Ruby file; nil: the Rails application here, or
        #   none
        # @param environment [String, nil] as for `sidekiq -e`
        # @return [Object] answers `redis`
        # @raise [Error]
        def self.load(path, environment)
          path ||= "." if rails?(".")
          SidekiqLifecycle.singleton_class.prepend(NoInstall)
          choose_environment(environment)
          # A process that has loaded this is a server for Sidekiq, so `configure_server` applies, as in a worker.
          require "sidekiq"
          require "sidekiq/cli"
          ::Sidekiq.logger.level = ::Logger::WARN
          load_application(path) if path
          check_address
          ::Sidekiq
        end

        def self.choose_environment(environment)
          environment ||= ENV.values_at("APP_ENV", "RAILS_ENV", "RACK_ENV").compact.first || "development"
          ENV["RACK_ENV"] = ENV["RAILS_ENV"] = environment
        end
        private_class_method :choose_environment

        def self.load_application(path)
          raise Error, "#{path} does not exist; point -r to a Rails application or a Ruby file" unless File.exist?(path)
          return require_file(path) unless File.directory?(path)
          raise Error, "#{path} is not a Rails application: there is no config/application.rb in it" unless rails?(path)

          require "rails"
          require "sidekiq/rails"
          require_file(File.join(path, "config/environment.rb"))
        end
        private_class_method :load_application

        def self.require_file(path)
          require File.expand_path(path)
        rescue SystemExit => e
          raise Error, "#{path} cannot be loaded: it ends the process with #{e.status} (#{e.backtrace.first})"
        rescue ScriptError, StandardError => e
          raise Error, "#{path} cannot be loaded: #{Text.error(e)} (#{e.backtrace.first})"
        end
        private_class_method :require_file

        # Sidekiq reads the address when it first needs a connection. The error's message is not repeated, because it
        # may contain a password.
        def self.check_address
          ::Sidekiq.redis { nil }
        rescue *SidekiqCompat.redis_errors
          nil # the first poll will report it
        rescue StandardError => e
          raise Error, "Redis has no usable address: look at $REDIS_URL, $REDIS_PROVIDER and what the application " \
                       "sets (#{e.class})"
        end
        private_class_method :check_address

        def self.rails?(path) = File.exist?(File.join(path, "config/application.rb"))
        private_class_method :rails?
      end
    end
  end
end
