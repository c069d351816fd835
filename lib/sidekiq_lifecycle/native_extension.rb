# frozen_string_literal: true

# Loads the native extension. A platform gem has one for each Ruby that it serves, in a directory with that Ruby's
# version: `3.3/native.so`. A gem that was built on this machine has one `native.so`.

here = RUBY_VERSION[/\A\d+\.\d+/]
served = Dir.children(__dir__).grep(/\A\d+\.\d+\z/).sort_by { |version| version.split(".").map(&:to_i) }
begin
  require(served.include?(here) ? "sidekiq_lifecycle/#{here}/native" : "sidekiq_lifecycle/native")
rescue LoadError => e
  raise LoadError, <<~SENTENCES.tr("\n", " ").strip
    sidekiq_lifecycle's native part cannot be loaded (#{e.message}).
    #{if served.empty?
        "If it was not built, run: gem pristine sidekiq_lifecycle; in a checkout: rake compile"
      else
        "This precompiled gem is for Ruby #{served.join(", ")}, and this is #{RUBY_VERSION}. To build the gem here, " \
          "run: gem install sidekiq_lifecycle --platform ruby; with Bundler, write in the Gemfile: " \
          "gem \"sidekiq_lifecycle\", force_ruby_platform: true"
      end}
  SENTENCES
end
