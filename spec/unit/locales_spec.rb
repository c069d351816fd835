# frozen_string_literal: true

require "yaml"

RSpec.describe "the words of the page in Sidekiq's Web UI" do
  web = File.expand_path("../../lib/sidekiq_lifecycle/web", __dir__)
  locales = Dir["#{web}/locales/*.yml"].to_h { |file| [File.basename(file, ".yml"), YAML.load_file(file)] }

  it "are the same in every language" do
    expect(locales.size).to be > 1
    keys = locales.map { |language, words| words.fetch(language).keys.sort }
    expect(keys.uniq.size).to eq(1)
  end

  it "are those that the views ask for" do
    asked = Dir["#{web}/views/*.erb"].flat_map { |file| File.read(file).scan(/\bt\("(Lifecycle\w*)"\)/).flatten }
    expect(asked - locales.dig("en", "en").keys).to be_empty
  end
end
