# frozen_string_literal: true

require "erb"
require "json"
require_relative "../text"
require_relative "stop_times"

module SidekiqLifecycle
  module Generate
    # The files for one platform. Below `templates/TARGET`, each file has the path that it gets in the application.
    #
    # @api private
    class Target
      # Where the templates are.
      TEMPLATES = File.join(__dir__, "templates")
      # The target that another one includes. Containers need the native command and the stop signal in their image.
      # Capistrano restarts units of systemd.
      FOUNDATIONS = { "compose" => "docker", "ecs" => "docker", "kubernetes" => "docker",
                      "capistrano" => "systemd" }.freeze

      # The port of HTTP probes.
      HTTP_PORT = 7433

      # @param name [String]
      # @param application [AppConfig]
      def initialize(name, application)
        @name = name
        @view = View.new(application)
      end

      # @return [Hash{String => String}] the files: path below the application's root => contents
      # @raise [Error] if the application does not fit the platform
      def files
        names = [FOUNDATIONS[@name], @name].compact
        names.map { |name| render_all(File.join(TEMPLATES, name)) }.reduce(:merge)
      end

      private

      def render_all(directory)
        names = Dir.glob("**/*.erb", base: directory).reject { |file| File.basename(file).start_with?("_") }
        names.sort.to_h { |file| [file.delete_suffix(".erb"), @view.render(File.join(directory, file))] }
      end

      # The methods that a template can call.
      class View
        # The pattern for a path in a document of Systems Manager.
        DOCUMENT_PATH = "^/[A-Za-z0-9._/@-]+$"

        # @param application [AppConfig]
        def initialize(application)
          @application = application
          @times = StopTimes.new(application.timeout)
        end

        # @param file [String] a template
        # @param locals [Hash{Symbol => Object}] variables of this template only
        # @return [String]
        def render(file, **locals)
          scope = binding
          locals.each { |name, value| scope.local_variable_set(name, value) }
          ERB.new(File.read(file), trim_mode: "-").tap { |erb| erb.filename = file }.result(scope)
        end

        private

        attr_reader :application, :times

        def name = application.name

        # The current release on a host, and the lifecycle directory that all releases share.
        def current = File.join(application.deploy_to, "current")

        def directory_on_host
          directory = application.lifecycle_directory || File.join(application.deploy_to, "shared/tmp/sidekiq")
          return directory if directory.start_with?("/")

          raise Misuse, "SIDEKIQ_LIFECYCLE_DIR is #{directory}, which is another directory in each release; set it " \
                        "to an absolute path, or leave it to be shared/tmp/sidekiq"
        end

        # The same as a parameter of a document of Systems Manager, which a shell gets without quotes.
        def directory_in_document
          return directory_on_host if directory_on_host.match?(/\A#{DOCUMENT_PATH[1..-2]}\z/)

          raise Error, "the lifecycle directory #{directory_on_host} cannot be a parameter of Systems Manager: set " \
                       "SIDEKIQ_LIFECYCLE_DIR to an absolute path of letters, digits and . _ / @ -"
        end

        # A list on one line, in the syntax that JSON, YAML and Dockerfiles share.
        def list(items) = "[#{items.map { |item| JSON.generate(item) }.join(", ")}]"

        # A part that several templates share.
        def partial(name, **locals) = render(File.join(TEMPLATES, "#{name}.erb"), **locals)

        # A value in a Dockerfile.
        def docker_value(text) = JSON.generate(text).gsub("$", "\\$")

        # A value of a systemd unit, where a % begins a specifier (systemd.unit(5)).
        def unit_value(text) = text.gsub("%", "%%")

        # One of several words in it.
        def unit_quoted(word)
          escaped = unit_value(word.gsub(/["\\]/) { |letter| "\\#{letter}" })
          word.match?(%r{\A[\w./,:=@%+-]+\z}) ? escaped : %("#{escaped}")
        end

        # A word of a command, where a $ begins a variable (systemd.service(5)).
        def unit_command_word(word) = unit_quoted(word).gsub("$", "$$")

        # The worker's concurrency and queues, for people.
        def work
          jobs = application.concurrency
          comment("#{"#{jobs} jobs at a time, " if jobs}queues #{application.queues.join(", ")}")
        end

        # What Kubernetes' kubelet does for a probe.
        def probe(name)
          return %(httpGet: { path: /#{name}, port: #{HTTP_PORT} }) if application.http_probes?

          %(exec: { command: #{list(["sidekiq-lifecycle", "check", name])} })
        end

        # Where the seconds of `-t` come from.
        def timeout = comment("-t #{times.timeout} (#{application.timeout_source})")

        # Text for a comment, without line ends.
        def comment(text) = Text.one_line(text)
      end
      private_constant :View
    end
  end
end
