# frozen_string_literal: true

desc "Run every test that this machine can run"
task :test do
  sh "bin/test"
end

namespace :test do
  desc "Test the Rust core alone"
  task :rust do
    sh "cargo", "test", "--locked"
  end

  desc "Run the specs in one of the systems of bin/in-sidekiq: rake 'test:specs[8,spec/unit]'"
  task :specs, %i[system path] do |_, arguments|
    sh "bin/in-sidekiq", arguments.fetch(:system, "8"), "bin/spec", *arguments[:path]
  end
end
