# frozen_string_literal: true

require "pathname"

RSpec.describe SidekiqLifecycle::Configuration do
  subject(:configuration) { described_class.new(root: "/srv/shop") }

  around do |example|
    before = ENV.to_h
    ENV.delete("SIDEKIQ_LIFECYCLE_DIR")
    ENV.delete("SIDEKIQ_LIFECYCLE_SIGNAL_RELAY")
    ENV.delete("SIDEKIQ_LIFECYCLE_HTTP")
    example.run
  ensure
    ENV.replace(before)
  end

  it "has tmp/sidekiq below the application's root, ready in there, and an unknown stop timeout" do
    expect(configuration).to have_attributes(directory: "/srv/shop/tmp/sidekiq", ready_file: nil, stop_timeout: nil)
  end

  it "takes the working directory for the root where there is no Rails" do
    expect(described_class.new.directory).to eq(File.join(Dir.pwd, "tmp/sidekiq"))
  end

  { "/run/sidekiq" => "/run/sidekiq", "run" => "/srv/shop/run",
    "" => "/srv/shop/tmp/sidekiq" }.each do |value, directory|
    it "has #{directory} with SIDEKIQ_LIFECYCLE_DIR=#{value.inspect}" do
      ENV["SIDEKIQ_LIFECYCLE_DIR"] = value
      expect(configuration.directory).to eq(directory)
    end
  end

  # Units, images and those who ask know nothing of an initializer.
  it "lets the environment's word go before the application's own" do
    ENV["SIDEKIQ_LIFECYCLE_DIR"] = "/run/sidekiq"
    configuration.directory = "tmp/worker"
    expect(configuration.directory).to eq("/run/sidekiq")
    expect { configuration.directory = "" }.to raise_error(ArgumentError)
    stub_const("ENV", ENV.to_h.merge("SIDEKIQ_LIFECYCLE_SIGNAL_RELAY" => "off"))
    expect(described_class.new.tap { |settings| settings.signal_relay = :auto }.signal_relay).to eq(:off)
  end

  { "off" => :off, "false" => :off, "0" => :off, "No" => :off, " off\n" => :off, "auto" => :auto, "1" => :auto,
    "" => :auto }.each do |value, relay|
    it "has the relay #{relay} with SIDEKIQ_LIFECYCLE_SIGNAL_RELAY=#{value.inspect}" do
      ENV["SIDEKIQ_LIFECYCLE_SIGNAL_RELAY"] = value
      expect(configuration).to have_attributes(signal_relay: relay, environment_problem: nil)
    end
  end

  it "keeps its own word where the environment's means nothing, and says so" do
    ENV["SIDEKIQ_LIFECYCLE_SIGNAL_RELAY"] = "sometimes"
    expect(configuration).to have_attributes(signal_relay: :auto, environment_problem:
      'SIDEKIQ_LIFECYCLE_SIGNAL_RELAY is "sometimes" and is ignored; set it to auto or off')
    configuration.signal_relay = :off
    expect(configuration.signal_relay).to eq(:off)
    expect { configuration.signal_relay = :sometimes }.to raise_error(ArgumentError, /signal_relay is :sometimes/)
  end

  { 7433 => "7433", "7433" => "7433", "127.0.0.1:80" => "127.0.0.1:80", "[::1]:80" => "[::1]:80",
    nil => nil }.each do |value, address|
    it "serves HTTP at #{address.inspect} with #{value.inspect}" do
      expect(configuration.tap { |settings| settings.http = value }.http).to eq(address)
      ENV["SIDEKIQ_LIFECYCLE_HTTP"] = "9000"
      expect(configuration.tap { |settings| settings.http = value }.http).to eq("9000")
      ENV["SIDEKIQ_LIFECYCLE_HTTP"] = "soon"
      expect(configuration.tap { |settings| settings.http = value }.http).to eq(address)
      expect(configuration.environment_problem).to start_with('SIDEKIQ_LIFECYCLE_HTTP is "soon" and is ignored')
    end
  end

  [0, 65_536, "localhost:80", "", "80\n", true, 80.5, :http].each do |value|
    it "serves HTTP at no #{value.inspect}" do
      expect { configuration.http = value }
        .to raise_error(ArgumentError, start_with("http is #{value.inspect}; set it to a port"))
    end
  end

  it "takes any path that the environment may have, as the native command does" do
    { "~nobody/x" => "/srv/shop/~nobody/x", "/run/a\n" => "/run/a\n",
      "/run/\xFF" => "/run/\xFF".b }.each do |value, path|
      ENV["SIDEKIQ_LIFECYCLE_DIR"] = value
      expect(described_class.new(root: "/srv/shop").directory).to eq(path)
    end
    ENV["SIDEKIQ_LIFECYCLE_DIR"] = "/run/a\n"
    expect(configuration.environment_problem)
      .to start_with('SIDEKIQ_LIFECYCLE_DIR is "/run/a\n" and is used with invisible characters')
  end

  it "joins paths of any encoding" do
    configuration = described_class.new(root: "/srv/\xC3\xA4".b)
    configuration.directory = "tmp/é"
    expect(configuration.directory).to eq("/srv/ä/tmp/é")
  end

  %w[directory ready_file].each do |name|
    { "tmp/pids/x" => "/srv/shop/tmp/pids/x", "/run/x" => "/run/x", Pathname("tmp/x") => "/srv/shop/tmp/x",
      "tmp/../x/" => "/srv/shop/x" }.each do |path, expanded|
      it "takes #{path.inspect} as #{name}" do
        configuration.public_send("#{name}=", path)
        expect(configuration.public_send(name)).to eq(expanded)
      end
    end

    ["", "a\0b", 7, :tmp, Object, Pathname("")].each do |wrong|
      it "refuses #{wrong.inspect} as #{name}, and keeps what it had" do
        before = configuration.public_send(name)
        expect { configuration.public_send("#{name}=", wrong) }
          .to raise_error(ArgumentError, "#{name} is #{wrong.inspect}; set it to a path, such as \"tmp/sidekiq\"")
        expect(configuration.public_send(name)).to eq(before)
      end
    end
  end

  it "refuses nil as directory, but takes it as ready_file: the directory's own" do
    expect { configuration.directory = nil }.to raise_error(ArgumentError, /\Adirectory is nil; set it to a path/)
    configuration.ready_file = "tmp/x"
    configuration.ready_file = nil
    expect(configuration.ready_file).to be_nil
  end

  { stop_timeout: 30, exit_when_idle: 300 }.each do |name, example|
    [30, 0.5, nil].each do |seconds|
      it "takes #{seconds.inspect} as #{name}" do
        configuration.public_send(:"#{name}=", seconds)
        expect(configuration.public_send(name)).to eq(seconds)
      end
    end

    [0, -1, 0.0, Float::NAN, Float::INFINITY, "30", :never, [30], Rational(1, 2), Complex(1, 1)].each do |wrong|
      it "refuses #{wrong.inspect} as #{name}" do
        sentence = "#{name} is #{wrong.inspect}; set it to a number of seconds above 0, such as #{example}"
        expect { configuration.public_send(:"#{name}=", wrong) }.to raise_error(ArgumentError, sentence)
      end
    end
  end

  it "takes a duration of Rails' as stop_timeout" do
    require "active_support"
    require "active_support/core_ext/integer/time"
    configuration.stop_timeout = 2.minutes
    expect(JSON.generate(configuration.stop_timeout)).to eq("120.0")
  end

  it "takes whether and how often jobs of a killed process are put back" do
    expect(configuration).to have_attributes(recover_jobs: false, recover_limit: 3)
    configuration.recover_jobs = true
    configuration.recover_limit = 0
    expect(configuration).to have_attributes(recover_jobs: true, recover_limit: 0)
  end

  %i[require_signal_path ecs_task_protection recover_jobs].product([nil, "true", 1]).each do |name, wrong|
    it "refuses #{wrong.inspect} as #{name}" do
      expect { configuration.public_send(:"#{name}=", wrong) }
        .to raise_error(ArgumentError, "#{name} is #{wrong.inspect}; set it to true or false")
    end
  end

  [nil, -1, 1.5, "3"].each do |wrong|
    it "refuses #{wrong.inspect} as recover_limit" do
      sentence = "recover_limit is #{wrong.inspect}; set it to how often a job is put back, such as 3"
      expect { configuration.recover_limit = wrong }.to raise_error(ArgumentError, sentence)
    end
  end
end
