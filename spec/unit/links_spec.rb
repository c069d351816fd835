# frozen_string_literal: true

RSpec.describe "The documentation" do
  root = File.expand_path("../..", __dir__)
  pages = Dir.glob(%w[*.md docs/**/*.md examples/**/*.md], base: root)

  def without_code(text) = text.gsub(/^ *```.*?^ *```/m, "").gsub(/`[^`]*`/) { |code| code.tr("[]()", "    ") }

  # The anchors of a page's headings, as GitHub makes them.
  def anchors(file)
    titles = File.read(file).gsub(/^ *```.*?^ *```/m, "").scan(/^#+ (.*)/).flatten
    seen = Hash.new(-1)
    titles.map do |title|
      words = title.gsub(/\[([^\]]*)\]\([^)]*\)/, '\1').downcase
      slug = words.gsub(/[^\p{Word}\- ]/, "").tr(" ", "-")
      (seen[slug] += 1).zero? ? slug : "#{slug}-#{seen[slug]}"
    end
  end

  def dead?(root, page, link)
    path, anchor = link.split("#", 2)
    target = path.empty? ? File.join(root, page) : File.expand_path(path, File.join(root, File.dirname(page)))
    return true unless target.start_with?("#{root}/") && File.exist?(target)

    anchor ? File.directory?(target) || !anchors(target).include?(anchor) : false
  end

  it "has pages" do
    expect(pages).to include("README.md", "docs/README.md", "docs/deploy/docker.md")
  end

  pages.each do |page|
    it "links to existing files and headings in #{page}" do
      links = without_code(File.read(File.join(root, page))).scan(/\]\(\s*([^)\s]+)\s*\)/).flatten
      relative = links.grep_v(/\A[a-z]+:/)
      expect(relative.select { |link| dead?(root, page, link) }).to be_empty
    end
  end
end
