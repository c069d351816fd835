# frozen_string_literal: true

require "sidekiq/web"
require "sidekiq_lifecycle"
require_relative "web/page"

module SidekiqLifecycle
  # The page "Lifecycle" in Sidekiq's Web UI: every process with its true state, buttons to quiet and to restart
  # processes, and the timeline. Load it where the Web UI is mounted:
  #
  #     require "sidekiq/web"
  #     require "sidekiq_lifecycle/web"
  #
  # Whoever may see the Web UI may use the buttons, as with Sidekiq's own; {read_only=} takes them away.
  module Web
    # Where the views, the locales and the style are.
    ROOT = File.expand_path("web", __dir__)
    # The style of the page and of the picture. The browser asks for it again when the gem changes.
    STYLE = [File.join(ROOT, "lifecycle.css"), Fleet::TimelineSvg::STYLE].map { |file| File.read(file) }.join.freeze
    # Names of headers that every version of Rack takes.
    STYLE_HEADERS = { "content-type" => "text/css", "cache-control" => "private, max-age=86400",
                      "x-content-type-options" => "nosniff" }.freeze
    # Their text by name.
    VIEWS = %w[lifecycle confirm].to_h { |name| [name, File.read(File.join(ROOT, "views", "#{name}.erb"))] }.freeze
    private_constant :ROOT, :STYLE, :STYLE_HEADERS, :VIEWS

    @read_only = false

    class << self
      # @return [Boolean] whether the page only shows, and has no buttons
      attr_accessor :read_only

      # Adds the page to Sidekiq's Web UI.
      #
      # @api private
      # @return [void]
      def register
        web = ::Sidekiq::Web
        # 8.0.0 and later (`web/config.rb`); the others take an extension without further details (`web.rb`).
        if web.respond_to?(:configure)
          return web.configure do |config|
            config.register(self, name: "sidekiq_lifecycle", tab: "Lifecycle", index: "lifecycle", root_dir: ROOT)
          end
        end

        web.tabs["Lifecycle"] = "lifecycle"
        web.locales << File.join(ROOT, "locales")
        web.register(self)
      end

      # Sidekiq calls this with the class that has the routes. A route runs as one of Sidekiq's actions.
      #
      # @api private
      # @param app [Class]
      # @return [void]
      def registered(app)
        app.get("/lifecycle") { Web.show(self) }
        app.get("/lifecycle/style.css") { Web.style }
        app.post("/lifecycle/confirm") { Web.confirm(self) }
        app.post("/lifecycle/tell") { Web.tell(self) }
      end

      # @api private
      # @param action [Object] Sidekiq's
      # @return [String] the page
      def show(action) = render(action, "lifecycle", page: Page.new(action.request.params))

      # @api private
      # @return [Array] the style
      def style = [200, STYLE_HEADERS.dup, [STYLE]]

      # @api private
      # @param action [Object] Sidekiq's
      # @return [String] the page that asks whether it is meant
      def confirm(action)
        refuse(action, 403) if read_only
        question = Question.new(action.request.params)
        question.request ? render(action, "confirm", question:) : refuse(action, 400)
      end

      # Sends what was confirmed.
      #
      # @api private
      # @param action [Object] Sidekiq's
      # @return [void]
      def tell(action)
        refuse(action, 403) if read_only
        question = Question.new(action.request.params)
        refuse(action, 400) unless question.request
        told = question.send_all
        action.redirect("#{action.root_path}lifecycle?told=#{told}&request=#{question.request}")
      end

      private

      def refuse(action, code) = action.halt(code)

      # Sidekiq's versions look for a view's file in different ways, so it is given the text.
      def render(action, name, **locals)
        action.add_to_head do
          %(<link rel="stylesheet" href="#{action.root_path}lifecycle/style.css?#{VERSION}">)
        end
        action.erb(VIEWS.fetch(name), locals:)
      end
    end

    register
  end
end
