# frozen_string_literal: true

namespace :gem do
  desc "Build the gem of one platform into pkg/: rake 'gem:platform[aarch64-linux-musl]'"
  task :platform, [:platform] do |_, arguments|
    sh "script/platform_gem", arguments.fetch(:platform)
  end

  desc "Build the gems of all platforms into pkg/"
  task :platforms do
    sh "script/platform_gem"
  end
end

# The release workflow builds for more Rubies and for macOS, in the containers of rb-sys-dock. There it calls
# `rake native:PLATFORM gem`, and these variables say for what.
if (platform = ENV.fetch("RUBY_TARGET", nil))
  require "yaml"

  desc "Build the gem of the platform that rb-sys-dock's container is for"
  task "native:#{platform}" do
    rubies = ENV.fetch("RUBY_CC_VERSION").split(":")
    rbconfigs = YAML.load_file(File.expand_path("~/.rake-compiler/config.yml"))
                    .select { |name, _| name.start_with?("rbconfig-") && rubies.include?(name[/[^-]+\z/]) }
    missing = rubies - rbconfigs.keys.map { |name| name[/[^-]+\z/] }
    # A gem without one of them would be taken by that Ruby all the same, and not load.
    abort "rake: this container has no Ruby #{missing.join(" and no ")}" if missing.any?
    ENV["CARGO_BUILD_TARGET"] ||= ENV.fetch("RUST_TARGET")
    # For Linux the workflow has built it already, because it is static and needs another target.
    command = "pkg/command/sidekiq-lifecycle"
    unless File.exist?(command)
      sh "cargo", "build", "--release", "--locked"
      command = "target/#{ENV.fetch("CARGO_BUILD_TARGET")}/release/sidekiq-lifecycle"
    end
    ruby "script/native_gem.rb", platform, command, "pkg", *rbconfigs.values
  end
  task :gem
end
