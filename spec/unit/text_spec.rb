# frozen_string_literal: true

require "sidekiq_lifecycle/text"

RSpec.describe SidekiqLifecycle::Text do
  describe ".one_line" do
    it "takes out what a terminal obeys, and what is not seen" do
      {
        "plain, Grün, 日本" => "plain, Grün, 日本", "a\nb\e[31mc" => "a b [31mc",
        "web\u202Egpj\u200B.\u2066\u2069\uFEFFx\u2028y\u{E0041}" => "web gpj .   x y ",
        "Gr\xC3\xBCn".b => "Grün", "\xFFx".b => "\uFFFDx"
      }.each { |text, expected| expect(described_class.one_line(text)).to eq(expected) }
    end

    # Ruby's table may be that of an older Unicode.
    it "takes out in Rust what it takes out in Ruby" do
      source = File.read(File.expand_path("../../src/model/text.rs", __dir__))
      ranges = source.scan(/^    \('\\u\{(\h+)\}', '\\u\{(\h+)\}'\),$/).map { |first, last| first.hex..last.hex }
      expect(ranges.size).to be > 10
      letters = [*0..0xD7FF, *0xE000..0x10FFFF].map { |code| [code].pack("U") }
      unseen = letters.grep(/[\p{Cf}\p{Zl}\p{Zp}]/).map(&:ord)
      expect(unseen.reject { |code| ranges.any? { |range| range.cover?(code) } }).to be_empty
      extra = ranges.flat_map(&:to_a) - unseen
      expect(extra).to all(satisfy { |code| [code].pack("U").match?(/[\p{Cn}\p{Mn}\p{Cf}]/) })
    end
  end

  # The table is that of src/model/text.rs.
  describe ".masked" do
    source = File.read(File.expand_path("../../src/model/text.rs", __dir__))
    table = source[/fn secrets_are_hidden.*/m].scan(/\(\s*("(?:[^"\\]|\\.)*"),\s*("(?:[^"\\]|\\.)*"),?\s*\)/)
    it "has examples" do
      expect(table.size).to be > 10
    end

    table.each do |text, expected|
      it "makes #{expected} of #{text}" do
        unescape = ->(literal) { literal[1..-2].gsub("\\n", "\n").gsub(/\\(.)/, "\\1") }
        expect(described_class.masked(unescape[text])).to eq(unescape[expected])
      end
    end
  end

  it "says what an error is, in one line" do
    error = RuntimeError.new("no redis://:pw@h\nmore")
    expect(described_class.error(error)).to eq("RuntimeError: no redis://[hidden]@h")
  end
end
