# frozen_string_literal: true

require_relative "lib/sidekiq_lifecycle/version"

Gem::Specification.new do |spec|
  spec.name = "sidekiq_lifecycle"
  spec.version = SidekiqLifecycle::VERSION
  spec.authors = ["The sidekiq_lifecycle authors"]
  spec.summary = "Reliable readiness, signal delivery and draining for Sidekiq processes"
  spec.description = "Health checks that know when a Sidekiq process is ready, SIGTERM that reaches it whatever " \
                     "shell or init is in front, and draining before it stops, so that deploys stop losing jobs."
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.1"
  spec.metadata["rubygems_mfa_required"] = "true"

  spec.files = Dir.chdir(__dir__) do
    Dir["{src,ext}/**/*.{rs,rb,toml}", "{lib,sig}/**/*.{rb,rbs,erb,tt,css,yml}", "exe/*", "Cargo.{toml,lock}",
        "docs/**/*.{md,svg}", "README.md", "CHANGELOG.md", "LICENSE"]
  end
  spec.bindir = "exe"
  spec.executables = ["sidekiq-lifecycle"]
  spec.extensions = ["ext/sidekiq_lifecycle/extconf.rb"]

  spec.add_dependency "sidekiq", ">= 6.4", "< 9"
end
