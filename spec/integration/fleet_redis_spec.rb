# frozen_string_literal: true

require "delegate"

RSpec.describe "the Redis of the command fleet" do
  include FleetCommand

  after { @servers&.each(&:stop) }

  def server(...) = RedisServer.new(...).tap { |server| (@servers ||= []) << server }

  # Starts a Redis for this example alone.
  def use(...)
    @database = 0
    @redis = server(...)
  end

  def redis = @redis || super

  # An application that sets the Redis of its workers only, and prints before that.
  def application(settings, name: "app.rb", after: "")
    File.write(file(name), <<~RUBY)
      puts "loading"
      system "echo loading"
      require "sidekiq"
      require "sidekiq_lifecycle"
      Sidekiq.configure_client { |config| config.redis = { url: "redis://127.0.0.1:1/" } }
      Sidekiq.configure_server do |config|
        config.redis = #{settings}
        SidekiqLifecycle.install(config)
      end
      #{after}
    RUBY
  end

  def start_sidekiq
    worker = start_program("sidekiq", "-r", "./app.rb", "-c", "1", name: "app")
    wait_until("it is listed") { listed.any? || worker.raise_if_ended }
    worker
  end

  # Without the application Redis cannot be reached; with it the worker is found and controlled.
  def expect_to_reach(worker, unaided: {})
    expect(fleet("status", environment: unaided).first).to eq(1)
    report = fleet_json("status", "-r", "app.rb", environment: unaided)
    expect(report["processes"].map { |process| process.values_at("pid", "state") }).to eq([[worker.pid, "running"]])
    code, out, err = fleet("quiet", "-r", "./app.rb", environment: unaided)
    expect([code, out]).to match([0, /\A1 of 1 quiet after/]), err
  end

  describe "is that of the application's workers," do
    let(:unaided) { { "REDIS_URL" => nil } }

    it "with a password" do
      use(password: "s3cret")
      application("{ url: #{redis.url.inspect}, password: 's3cret' }", after: QUICK_HEARTBEAT)
      expect_to_reach(start_sidekiq, unaided:)
      code, _, err = fleet("status", environment: { "REDIS_URL" => redis.url })
      expect([code, err]).to match([1, /\Asidekiq-lifecycle: Redis does not answer: NOAUTH /])
    end

    it "over TLS with a private certificate authority" do
      certificates = Certificates.new(app)
      use(certificates:)
      application("{ url: #{redis.url.inspect}, ssl_params: { ca_file: #{certificates.authority.inspect} } }",
                  after: QUICK_HEARTBEAT)
      expect_to_reach(start_sidekiq, unaided:)
      code, _, err = fleet("status", environment: { "REDIS_URL" => redis.url })
      expect([code, err]).to match([1, /\Asidekiq-lifecycle: Redis does not answer: .*certificate verify failed.*\n\z/])
    end

    it "found by a Sentinel" do
      use
      sentinel = server(watches: redis)
      wait_until("the Sentinel knows it") { sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main") }
      application("{ url: 'redis://main', role: :master, sentinels: [{ host: '127.0.0.1', port: #{sentinel.port} }] }",
                  after: QUICK_HEARTBEAT)
      expect_to_reach(start_sidekiq, unaided:)
    end

    it "named by $REDIS_PROVIDER" do
      worker = start(after: QUICK_HEARTBEAT)
      wait_until("it is listed") { listed.any? || worker.raise_if_ended }
      report = fleet_json("status", environment: { "REDIS_URL" => nil, "REDIS_PROVIDER" => "MY_REDIS",
                                                   "MY_REDIS" => redis.url(@database) })
      expect(report["processes"].map { |process| process["pid"] }).to eq([worker.pid])
    end
  end

  it "needs a usable address; the error shows no password" do
    ["http://x", "redis://:s3cret@a b", "redis://127.0.0.1:1/abc", ""].each do |url|
      code, out, err = fleet("status", environment: { "REDIS_URL" => url })
      expect([code, out, err]).to match([1, "", /\Asidekiq-lifecycle: (.*\n)\z/]), url
      expect(err).not_to include("s3cret")
    end
    expect(fleet("status", environment: { "REDIS_PROVIDER" => "redis://127.0.0.1:1/" }))
      .to match([1, "", /\Asidekiq-lifecycle: Redis has no usable address: .*\$REDIS_PROVIDER.* \(RuntimeError\)\n\z/])
  end

  describe "an application that it loads" do
    # Writes down what a Sidekiq with the gem would have: threads, children, traps, a record.
    let(:traces) { <<~RUBY }
      at_exit do
        File.write(#{file("traces").inspect}, [ENV.values_at("RAILS_ENV", "RACK_ENV"), SidekiqLifecycle.status,
          Thread.list.map(&:name).grep(/lifecycle/), File.read("/proc/self/task/\#{Process.pid}/children"),
          %w[INT TERM TSTP].map { |name| trap(name, "DEFAULT") }].inspect)
      end
    RUBY

    before { redis.call("SADD", "processes", "somebody:1:f00", database: @database) }

    def expect_bystander(environment)
      nothing = [[environment] * 2, nil, [], "", %w[DEFAULT DEFAULT SYSTEM_DEFAULT]]
      expect(File.read(file("traces"))).to eq(nothing.inspect)
      expect(Dir.glob("**/sidekiq/**", base: app).grep(/tmp/)).to be_empty
      expect(listed).to eq(["somebody:1:f00"])
    end

    it "starts nothing of a Sidekiq" do
      application("{ url: #{redis.url(@database).inspect} }", after: traces)
      code, out, err = fleet("status", "-r", "app.rb", "-e", "staging", "--json")
      expect(code).to eq(0), err
      expect(JSON.parse(out)["processes"].size).to eq(1)
      expect(err).to eq("loading\nloading\n")
      expect_bystander("staging")
    end

    it "may be the Rails application in this directory, or in another one" do
      FileUtils.mkdir_p(file("rails/config/initializers"))
      File.write(file("rails/config.ru"), "") # by which Rails knows its root
      File.write(file("rails/config/application.rb"), <<~RUBY)
        require "rails"
        require "sidekiq"
        require "sidekiq_lifecycle"
        class Shop < Rails::Application
          config.eager_load = false
          config.secret_key_base = "none"
          config.logger = Logger.new($stdout)
        end
        #{traces}
      RUBY
      File.write(file("rails/config/environment.rb"), <<~RUBY)
        require_relative "application"
        Rails.application.initialize!
      RUBY
      application("{ url: #{redis.url(@database).inspect} }", name: "rails/config/initializers/sidekiq.rb")
      { [] => file("rails"), ["-r", "rails"] => app }.each do |arguments, chdir|
        code, out, err = fleet("status", *arguments, "--json", environment: { "REDIS_URL" => nil }, chdir:)
        expect(code).to eq(0), err
        expect(JSON.parse(out)["processes"].size).to eq(1)
        expect_bystander("development")
        File.delete(file("traces"))
      end
    end

    { "raises" => ['raise ArgumentError, "the\nsun"', /cannot be loaded: ArgumentError: the \(.*app\.rb:1/],
      "is not Ruby" => ["end", /cannot be loaded: SyntaxError: /],
      "requires a missing file" => ["require 'nix'", /cannot be loaded: LoadError: cannot load such file -- nix/],
      "ends the process" => ["exit", /cannot be loaded: it ends the process with 0 \(.*app\.rb:1/],
      "configures something unknown" => ["require 'sidekiq'; Sidekiq.configure_server { |config| config.nix }",
                                         /cannot be loaded: NoMethodError: undefined method .?nix/] }
      .each do |what, (code, complaint)|
      it "is reported if it #{what}" do
        File.write(file("app.rb"), code)
        status, out, err = fleet("status", "-r", "app.rb")
        expect([status, out]).to eq([1, ""])
        expect(err).to match(/\Asidekiq-lifecycle: app\.rb #{complaint}.*\n\z/)
      end
    end

    it "has to exist" do
      expect(fleet("status", "-r", "nix"))
        .to eq([1, "", "sidekiq-lifecycle: nix does not exist; point -r to a Rails application or a Ruby file\n"])
      expect(fleet("status", "-r", ".")).to eq(
        [1, "", "sidekiq-lifecycle: . is not a Rails application: there is no config/application.rb in it\n"]
      )
    end
  end

  describe "with 10,000 processes in it" do
    before { use }

    let(:size) { 10_000 }
    let!(:simulated) { SimulatedFleet.new(redis, size) }

    # Counts what is sent to Redis: a command, or a pipeline of many.
    let(:config) do
      client = Class.new(SimpleDelegator) do
        attr_accessor :sent

        def method_missing(...) # rubocop:disable Style/MissingRespondToMissing -- the delegator's own will do
          self.sent = sent.to_i + 1
          super
        end
      end
      Struct.new(:pool, :client) do
        def redis
          pool.with do |connection|
            client.__setobj__(connection)
            yield client
          end
        end
      end.new(Sidekiq::RedisConnection.create(url: redis.url), client.new(nil))
    end

    # How often Redis has executed each command during the block.
    def work_of_redis
      redis.call("CONFIG", "RESETSTAT")
      yield
      redis.call("INFO", "commandstats").scan(/^cmdstat_(\w+):calls=(\d+)/).to_h { |name, calls| [name, calls.to_i] }
    end

    it "shows all of them, without a search, and without a round trip for each" do
      redis.call("SADD", "processes", "killed:1:f00")
      members = nil
      commands = work_of_redis { members = SidekiqLifecycle::Fleet.new(config).members }
      expect(members.map(&:identity)).to match_array([*simulated.identities, "killed:1:f00"])
      expect(members.map(&:state).tally).to eq(running: size, ghost: 1)
      expect(members.map(&:version).tally.keys.compact).to match_array(SimulatedFleet::VERSIONS)
      expect(members.reject(&:ghost?).map(&:concurrency)).to all(eq(10))
      expect(commands.values_at("smembers", "hmget", "pttl", "get")).to eq([1, size + 1, size + 1, size + 1])
      expect(commands.keys.grep(/scan|keys/)).to be_empty
      expect(config.client.sent).to be < size / 100

      code, out, = fleet("status")
      expect([code, out.lines.last]).to eq([0, "10001 in all: 1 ghost, 10000 running; 0 of 100000 threads busy\n"])
    end

    it "signals all of them, and waits until all are quiet" do
      quieting = fleet_in_background("quiet", "--timeout", "10m")
      wait_until("all are signalled") { simulated.sent_signals.all?(["TSTP"]) || quieting.raise_if_ended }
      expect(simulated.signals_expire_in).to all(be_between(1, 60))
      expect(quieting).to be_running
      simulated.beat(quiet: true)
      expect(quieting.exit_code).to eq(0)
      expect(quieting.log).to match(/^10000 of 10000 quiet after/)
    end

    it "waits until all have drained, those without the gem one heartbeat longer" do
      simulated.beat(quiet: true, busy: 1)
      waiting = fleet_in_background("wait", "drained", "--timeout", "10m")
      wait_until("it waits") do
        waiting.log.include?("0 of 10000 drained, 10000 jobs running") || waiting.raise_if_ended
      end
      simulated.beat(quiet: true, drained: true)
      wait_until("all are seen idle") { waiting.log.match?(/^10000 of 10000 drained after/) || idle(waiting) }
      simulated.beat(quiet: true, drained: true)
      expect(waiting.exit_code).to eq(0)
      expect(waiting.log).to match(/^10000 of 10000 drained after/)
    end

    def idle(waiting) = waiting.log.include?("#{simulated.with_gem} of 10000 drained") || waiting.raise_if_ended
  end
end
