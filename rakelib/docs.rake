# frozen_string_literal: true

desc "Build Rust's documentation in target/doc, and check that Ruby's is complete"
task :docs do
  sh "script/lint", "rust-docs", "ruby-docs"
end
