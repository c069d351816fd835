# frozen_string_literal: true

require "open3"

RSpec.describe "the version" do
  def read(name) = File.read(File.expand_path("../../#{name}", __dir__))

  it "is the same in the gem, the crate, its lock file, the native part and the command" do
    version = SidekiqLifecycle::VERSION
    expect(Gem.loaded_specs.fetch("sidekiq_lifecycle").version.to_s).to eq(version)
    expect(read("Cargo.toml").scan(/^version = "(.*)"/)).to eq([[version]])
    expect(read("Cargo.lock").scan(/^name = "sidekiq_lifecycle"\nversion = "(.*)"/)).to eq([[version]])
    expect(SidekiqLifecycle::Native::VERSION).to eq(version)
    expect(Open3.capture2(SidekiqLifecycle::CLI.path, "--version"))
      .to match(["sidekiq-lifecycle #{version}\n", be_success])
  end
end
