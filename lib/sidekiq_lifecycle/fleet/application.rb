# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # Loads an application as Sidekiq does (`cli.rb`, `boot_application`), to reach Redis as its workers do: with its
    # TLS, Sentinels and password. Nothing of a Sidekiq is started.
    #
    # @api private
    module Application
      # The application cannot be loaded.
      class Error < SidekiqLifecycle::Error; end

      # This process only looks for Redis where a Sidekiq would, and is none: no lifecycle begins here.
      module Bystander
        # The application's own call.
        def install(*) = nil
      end

      # @param path [String, nil] a Rails application's directory or a Ruby file; nil: the Rails application here, or
      #   none
      # @param environment [String, nil] as for `sidekiq -e`
      # @return [Object] what answers `redis`
      # @raise [Error]
      def self.load(path, environment)
        path ||= "." if rails?(".")
        SidekiqLifecycle.singleton_class.prepend(Bystander)
        choose_environment(environment)
        # Sidekiq takes a process that has loaded this for a server's: `configure_server` is what counts for workers.
        require "sidekiq"
        require "sidekiq/cli"
        ::Sidekiq.logger.level = ::Logger::WARN
        load_application(path) if path
        check_address
        ::Sidekiq
      end

      def self.choose_environment(environment)
        environment ||= %w[APP_ENV RAILS_ENV RACK_ENV].filter_map { |name| ENV.fetch(name, nil) }.first || "development"
        ENV["RACK_ENV"] = ENV["RAILS_ENV"] = environment
      end
      private_class_method :choose_environment

      def self.load_application(path)
        raise Error, "#{path} does not exist; point -r to a Rails application or a Ruby file" unless File.exist?(path)
        return require_file(path) unless File.directory?(path)
        raise Error, "#{path} is no Rails application: there is no config/application.rb in it" unless rails?(path)

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

      # Sidekiq reads the address when it first wants a connection. What is wrong with it is said without the message,
      # in which there may be a password.
      def self.check_address
        ::Sidekiq.redis { nil }
      rescue *SidekiqCompat.redis_errors
        nil # of that whoever asks Redis something will hear
      rescue StandardError => e
        raise Error, "Redis has no usable address: look at $REDIS_URL, $REDIS_PROVIDER and what the application sets " \
                     "(#{e.class})"
      end
      private_class_method :check_address

      def self.rails?(path) = File.exist?(File.join(path, "config/application.rb"))
      private_class_method :rails?
    end
  end
end
