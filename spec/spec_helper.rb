# frozen_string_literal: true

require "sidekiq"
require "sidekiq_lifecycle"
require "sidekiq_lifecycle/cli"

Dir[File.join(__dir__, "support", "*.rb")].each { |file| require file }

# A shell's & ignores INT and QUIT, nohup ignores HUP, and every program that a spec starts would inherit that. What has
# a handler here has its default action there, and the run itself goes on.
%w[HUP INT QUIT].each do |signal|
  before = Signal.trap(signal) { nil }
  Signal.trap(signal, before) unless before == "IGNORE"
end

RSpec.configure do |config|
  config.disable_monkey_patching!
  config.expect_with(:rspec) { |expectations| expectations.max_formatted_output_length = 4000 }
  config.example_status_persistence_file_path = nil

  config.include Waiting
  config.include Sandbox, :integration
  config.define_derived_metadata(file_path: %r{/spec/(integration|platform_gems)/}) do |metadata|
    metadata[:integration] = true
  end
  config.define_derived_metadata(file_path: %r{/spec/containers/}) { |metadata| metadata[:containers] = true }
  config.filter_run_excluding(full: true) unless ENV["FULL"]
  if (why = Container.missing)
    config.filter_run_excluding(containers: true)
    config.reporter.message("The specs of containers are left out: #{why}")
  end
  config.after(:suite) do
    ShopImage.clear_shared
    RedisServer.stop_shared
  end
end
