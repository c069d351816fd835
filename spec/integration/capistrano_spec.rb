# frozen_string_literal: true

# What can be tested of Capistrano's tasks and settings without a host. spec/containers/capistrano_spec.rb deploys.
#
# Of the three systems, that of Sidekiq 7 has Capistrano.
capistrano = ENV["IN_ROOT"] ? Sandbox::MAJOR == 7 : system("cap --version", %i[out err] => File::NULL)

RSpec.describe "Capistrano's tasks", if: capistrano do
  before { @deployment = Deployment.new(app, redis: redis.url(@database), shared: app) }

  # @param settings [String] Ruby in the stage's file
  def cap(*arguments, settings)
    @deployment.stage = settings
    @deployment.cap(*arguments)
  end

  it "are loaded by the Capfile of `cap install`, before deploy.rb and the stage, whose settings win" do
    stock = Gem.find_files("capistrano/templates/Capfile").first
    expect(File.readlines(stock)).to include(File.readlines("#{Deployment::EXAMPLE}/Capfile").last)
    # Another value than the plugin's own.
    rake = file("repository/lib/capistrano/tasks/sidekiq.rake")
    File.write(rake, File.read(rake).sub('"10m"', '"7m"'))
    show = "task(:show) { puts fetch(:sidekiq_units).inspect, fetch(:sidekiq_drain_timeout) }"
    expect(cap("show", show)).to eq([0, %(["sidekiq@1", "sidekiq@2"]\n7m\n)])
    expect(cap("show", "set :sidekiq_drain_timeout, '3m'; #{show}")).to eq([0, %(["sidekiq@1", "sidekiq@2"]\n3m\n)])
  end

  it "refuse an unknown setting, and report that no server has the role" do
    code, said = cap("sidekiq:status", "set :sidekiq_when_not_drained, :maybe")
    expect([code, said]).to match([1, /:sidekiq_when_not_drained is :maybe; set it to :fail or :go_on/])
    code, said = cap("sidekiq:status", "set :sidekiq_roles, :nobody")
    expect([code, said]).to match([0, /No server has the role nobody \(:sidekiq_roles\): no worker is quieted/])
  end

  it "load neither Sidekiq nor the native part on the deploying machine" do
    loaded = %q(at_exit { puts "loaded: #{[defined?(Sidekiq), $LOADED_FEATURES.grep(/sidekiq.*\.so/)]}" })
    expect(cap("-T", loaded).last).to include("cap sidekiq:wait_drained")
    expect(cap("sidekiq:status", loaded).last).to include("loaded: [nil, []]")
  end
end
