# frozen_string_literal: true

require "net/http"

# Debian builds nokogiri, which Rails needs, for its default Ruby only.
has_rails = system(Gem.ruby, "-e", "require 'rails'", err: IO::NULL)

RSpec.describe "in Rails", skip: has_rails ? false : "Rails cannot be loaded" do
  before do
    write("rails/config.ru", "") # by which Rails knows its root
    write("rails/config/application.rb", <<~RUBY)
      require "rails"
      require "sidekiq"
      require "sidekiq_lifecycle"

      def note(text) = File.open(#{file("notes").inspect}, "a") { |notes| notes.puts(text) }

      module Shop
        class Application < Rails::Application
          note "found \#{Dir.glob("tmp/sidekiq/{ready,drained,processes/*}", base: #{file("rails").inspect}).sort}"
          config.eager_load = false
          config.secret_key_base = "none"
          config.logger = Logger.new($stdout)
        end
      end
    RUBY
    write("rails/config/environment.rb", <<~RUBY)
      require_relative "application"
      Rails.application.initialize!
    RUBY
    write("rails/config/initializers/sidekiq.rb", <<~RUBY)
      Sidekiq.configure_server do |config|
        config.redis = { url: #{redis.url(@database).inspect} }
        SidekiqLifecycle.install(config)
      end
    RUBY
    FileUtils.mkdir(file("elsewhere"))
  end

  let(:directory) { file("rails/tmp/sidekiq") }
  let(:ready) { File.join(directory, "ready") }

  def write(name, text)
    FileUtils.mkdir_p(File.dirname(file(name)))
    File.write(file(name), text)
  end

  # From another working directory than the application's root.
  def start_rails(*command, **options)
    command = ["sidekiq", "-r", "../rails", "-c", "1"] if command.empty?
    start_program(*command, chdir: file("elsewhere"), **options)
  end

  def start_rails_ready
    start_rails.tap do |worker|
      wait_until("ready") { check("ready", "--dir", directory).first.zero? || worker.raise_if_ended }
      wait_until("its record says so") { state(worker) == "running" }
    end
  end

  def state(worker) = JSON.parse(File.read(File.join(directory, "processes", worker.pid.to_s)))["state"]

  it "has its directory below Rails.root, whatever the working directory is" do
    worker = start_rails_ready
    expect(check("ready", "--dir", directory)).to eq([0, "ready\n"])
    expect(Dir.glob("*", base: File.join(directory, "processes"))).to eq([worker.pid.to_s])
    expect(Dir.children(file("elsewhere"))).to be_empty
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(File).not_to exist(ready)
  end

  it "clears the files of a killed process before the application's first line" do
    predecessor = start_rails_ready
    expect(notes).to eq(["found []"])
    predecessor.signal(:KILL)
    predecessor.exit_code
    expect(File).to exist(ready)
    worker = start_rails
    wait_until("the application's first line") { notes.size == 2 || worker.raise_if_ended }
    expect(notes).to eq(["found []", "found []"])
  end

  it "answers HTTP requests before the first initializer has run, where the environment asks for it" do
    write("rails/config/initializers/a.rb", 'note "boots"; sleep 0.05 until File.exist?("boot may end")')
    port = RedisServer.free_port
    worker = start_rails(environment: { "SIDEKIQ_LIFECYCLE_HTTP" => "127.0.0.1:#{port}" })
    ask = ->(path) { Net::HTTP.get(URI("http://127.0.0.1:#{port}#{path}")) }
    wait_for_note("boots")
    expect(ask.call("/ready")).to start_with("not ready: ")
    FileUtils.touch(file("elsewhere/boot may end"))
    wait_until("ready") { ask.call("/ready") == "ready\n" || worker.raise_if_ended }
  end

  it "ends with 143 if TERM arrives in an early initializer, whatever its own trap does" do
    write("rails/config/initializers/early.rb", <<~RUBY)
      trap("TERM") { note "the application's own trap" }
      note "initializing"
      sleep
    RUBY
    worker = start_rails
    wait_until("the initializer runs") { notes.include?("initializing") || worker.raise_if_ended }
    # More than once, because a trap that has just been set comes first for a moment.
    wait_until("it ends", every: 0.1) { worker.status || !worker.signal(:TERM) }
    expect(worker.exit_code).to eq(143)
    expect(notes).to include("the application's own trap")
    expect(File).not_to exist(ready)
  end

  ["", "Sidekiq.configure_client { |config| SidekiqLifecycle.install(config) }"].each do |mistake|
    it "leaves other processes of the application alone#{", even if one installs by mistake" unless mistake.empty?}" do
      worker = start_rails_ready
      before = File.read(File.join(directory, "processes", worker.pid.to_s))
      write("rails/config/initializers/mistake.rb", mistake)
      console = start_rails(RbConfig.ruby, "-r", "../rails/config/environment", "-e", <<~RUBY, name: "console")
        note [SidekiqLifecycle.status, SidekiqLifecycle.ready?, SidekiqLifecycle.drained?,
              *Thread.list.map(&:name).grep(/lifecycle/)].inspect
        sleep
      RUBY
      wait_until("the console is there") { notes.last.start_with?("[nil") || console.raise_if_ended }
      expect(notes.last).to eq("[nil, false, false]")
      expect(check("ready", "--dir", directory)).to eq([0, "ready\n"])
      console.signal(:TERM)
      expect(console.exit_code).to eq(143)
      expect(Dir.glob("**/*", base: directory)).to contain_exactly("ready", "processes", "processes/#{worker.pid}")
      # Without what Sidekiq's heartbeat and the start of these processes have changed.
      own = ->(json) { JSON.parse(json).except("beat", "beat_monotonic", "signal_path") }
      expect(own[File.read(File.join(directory, "processes", worker.pid.to_s))]).to eq(own[before])
    end
  end

  it "creates no directory in other processes of the application" do
    start_rails(RbConfig.ruby, "-r", "../rails/config/environment", "-e", "SidekiqLifecycle.status").exit_code
    expect(Dir.exist?(file("rails/tmp"))).to be(false)
  end

  describe "the page Lifecycle, mounted below Rails' own routes" do
    include FleetCommand

    let(:port) { RedisServer.free_port }

    before do
      write("rails/config/routes.rb", <<~RUBY)
        require "sidekiq/web"
        require "sidekiq_lifecycle/web"
        Rails.application.routes.draw { mount Sidekiq::Web => "/admin/sidekiq" }
      RUBY
      write("rails/config.ru", <<~RUBY)
        require "action_controller/railtie"
        require_relative "config/environment"
        Sidekiq.configure_client { |config| config.redis = { url: #{redis.url(@database).inspect} } }
        Rails.application.config.hosts.clear
        run Rails.application
      RUBY
      server = start_program("puma", "--bind", "tcp://127.0.0.1:#{port}", "--threads", "1:2", "config.ru",
                             name: "puma", chdir: file("rails"))
      wait_until("the server answers") { server.raise_if_ended || request("Get", "").code == "200" }
    end

    # Keeps the session's cookie. Sidekiq 8.1 asks for the header instead of a token.
    def request(verb, path, fields = nil)
      request = Net::HTTP.const_get(verb).new("/admin/sidekiq/lifecycle#{path}", "Sec-Fetch-Site" => "same-origin")
      request["Cookie"] = @cookie
      request.form_data = fields if fields
      Net::HTTP.start("127.0.0.1", port) { |http| http.request(request) }.tap do |response|
        @cookie = response["Set-Cookie"][/[^;]+/] if response["Set-Cookie"]
      end
    rescue Errno::ECONNREFUSED
      Net::HTTPServiceUnavailable.new("1.1", "503", "")
    end

    # What a browser would send with the form.
    def hidden(page) = page.body.scan(/<input type=["']hidden["'] name=["']([^"']+)["'] value=["']([^"']*)["']/)

    it "has its style, and quiets a worker" do
      worker = start_rails(name: "worker", environment: { "RUBYOPT" => nil })
      wait_until("it is ready") { File.exist?(ready) || worker.raise_if_ended }
      wait_until("it is listed") { listed.any? }
      page = request("Get", "")
      style = page.body[%r{<link rel="stylesheet" href="/admin/sidekiq/(lifecycle/style\.css[^"]*)"}, 1]
      expect(request("Get", style.delete_prefix("lifecycle"))["Content-Type"]).to eq("text/css")
      asked = request("Post", "/confirm", [*hidden(page), ["only[quiet]", listed.first]])
      expect(asked.code).to eq("200")
      told = request("Post", "/tell", hidden(asked))
      expect(told["Location"]).to end_with("/admin/sidekiq/lifecycle?told=1&request=quiet")
      wait_until("it is quiet") { !File.exist?(ready) }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end
  end

  describe "rails generate sidekiq_lifecycle:install" do
    # As bin/rails does: [exit status, what it printed].
    def install(*arguments)
      write("rails/generate.rb", <<~RUBY)
        require_relative "config/environment"
        require "rails/generators"
        Rails::Generators.invoke("sidekiq_lifecycle:install", ARGV, behavior: :invoke, destination_root: __dir__)
      RUBY
      out, status = Open3.capture2e(RbConfig.ruby, "generate.rb", *arguments, chdir: file("rails"))
      [status.exitstatus, out]
    end

    let(:initializer) { file("rails/config/initializers/sidekiq_lifecycle.rb") }

    it "writes an initializer that is all that an application needs" do
      write("rails/config/initializers/sidekiq.rb", <<~RUBY)
        Sidekiq.configure_server { |config| config.redis = { url: #{redis.url(@database).inspect} } }
      RUBY
      expect(install).to match([0, %r{create.* config/initializers/sidekiq_lifecycle.rb}])
      worker = start_rails_ready
      expect(check("ready", "--dir", directory)).to eq([0, "ready\n"])
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(install).to match([0, %r{identical.* config/initializers/sidekiq_lifecycle.rb}])
    end

    it "replaces a different one only with --force" do
      install
      wanted = File.read(initializer)
      File.write(initializer, "# mine\n")
      expect(install("--skip")).to match([0, /skip/])
      expect(File.read(initializer)).to eq("# mine\n")
      expect(install("--force")).to match([0, /force/])
      expect(File.read(initializer)).to eq(wanted)
    end
  end
end
