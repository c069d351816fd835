# frozen_string_literal: true

require "open3"
require "rbconfig"
require "tmpdir"

RSpec.describe SidekiqLifecycle, ".install and .on where no Sidekiq runs" do
  around { |example| Dir.mktmpdir { |directory| @directory = directory and example.run } }

  # In a process of its own: what is installed stays installed.
  def ruby(code)
    load_path = $LOAD_PATH.flat_map { |directory| ["-I", directory] }
    output, status = Open3.capture2e(RbConfig.ruby, *load_path, "-r", "sidekiq", "-r", "sidekiq_lifecycle", "-e", code,
                                     chdir: @directory)
    expect(status).to be_success, output
    output
  end

  [nil, 7, "config", {}].each do |wrong|
    it "refuses #{wrong.inspect} for Sidekiq's config" do
      expect { described_class.install(wrong) }.to raise_error(
        ArgumentError, "install expects the config yielded by Sidekiq.configure_server, got #{wrong.inspect}"
      )
    end
  end

  it "rejects unknown events and a missing block" do
    expect { described_class.on(:started) { nil } }.to raise_error(
      ArgumentError, "there is no event :started; use one of :running, :quiet, :stopping, :drained, :stopped"
    )
    expect { described_class.on("running") { nil } }.to raise_error(ArgumentError, /\Athere is no event "running"/)
    expect { described_class.on(:running) }.to raise_error(
      ArgumentError, "SidekiqLifecycle.on(:running) needs a block"
    )
  end

  it "touches nothing in a web server that installs by mistake, and is nowhere in its life" do
    told = ruby(<<~RUBY)
      traps = %w[TERM INT TSTP].to_h { |name| [name, trap(name, "DEFAULT")] }
      2.times { Sidekiq.configure_client { |config| SidekiqLifecycle.install(config) { |it| it.directory = "a" } } }
      p SidekiqLifecycle.status, SidekiqLifecycle.ready?, SidekiqLifecycle.quiet?, SidekiqLifecycle.drained?
      p Thread.list.size, traps == %w[TERM INT TSTP].to_h { |name| [name, trap(name, "DEFAULT")] }
    RUBY
    expect(told.split).to eq(%w[nil false false false 1 true])
    expect(Dir.children(@directory)).to be_empty
  end

  it "lets such a process end by its signals as ever" do
    pid = spawn(RbConfig.ruby, *$LOAD_PATH.flat_map { |directory| ["-I", directory] }, "-r", "sidekiq",
                "-r", "sidekiq_lifecycle", "-e", <<~RUBY, chdir: @directory, err: File::NULL)
                  Sidekiq.configure_client { |config| SidekiqLifecycle.install(config) }
                  Process.kill(:TERM, Process.pid)
                  sleep
                RUBY
    expect(Process.wait2(pid).last.termsig).to eq(Signal.list.fetch("TERM"))
  end

  it "hooks into a config once, however often it is called" do
    told = ruby(<<~RUBY)
      require "sidekiq/launcher" # where 6.x adds an error handler of its own
      config = Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration : Sidekiq
      events = config.respond_to?(:[]) ? config[:lifecycle_events] : config.options[:lifecycle_events]
      sizes = -> { [*events.values, config.error_handlers].map(&:size) }
      before = sizes.call
      SidekiqLifecycle.install(config)
      once = sizes.call
      SidekiqLifecycle.install(config) { |lifecycle| lifecycle.directory = "elsewhere" }
      p once.sum - before.sum, once == sizes.call
    RUBY
    # :startup, :quiet, :shutdown, :beat where there is one (6.5.2 and later), and for errors.
    expect(told.split).to eq([Sidekiq::VERSION.to_i == 6 ? "4" : "5", "true"])
  end
end
