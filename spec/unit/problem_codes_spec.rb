# frozen_string_literal: true

RSpec.describe "the codes of problems" do
  it "are all in docs/json.md" do
    root = File.expand_path("../..", __dir__)
    code = Dir[File.join(root, "{lib,src,ext}/**/*.{rb,rs}")].map { |file| File.read(file) }.join
    # The others have names that are made elsewhere: of signals, streams and Sidekiq's threads.
    codes = code.scan(/set_problem\(\s*"(\w+)"/).flatten.uniq +
            %w[observe_sigterm observe_sigint observe_sigtstp standard_output standard_error threads lost_jobs]
    chapter = File.read(File.join(root, "docs/json.md"))[/^## The codes of problems$.*?(?=^## )/m]
    expect(chapter.scan(/^\| (.*?) \|/).flatten.drop(1).flat_map { |cell| cell.scan(/`(\w+)`/).flatten })
      .to match_array(codes)
  end
end
