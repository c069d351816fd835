# frozen_string_literal: true

require "open3"
require "rubygems/package"
require "tmpdir"

# A platform gem as a file, and what is inside. script/platform_gem builds it.
class PlatformGem
  # The Rubies of gem_rubies in script/lib.sh, and those whose own RubyGems is older than 3.3.22.
  ABIS = %w[3.1 3.3 3.4].freeze
  OLD_ABIS = %w[3.1].freeze
  DIRECTORY = File.expand_path("../../pkg", __dir__)
  CPU = RbConfig::CONFIG["host_cpu"]
  # The one that this RubyGems takes. Before 3.3.22 it does not tell glibc and musl apart.
  HERE = "#{CPU}-linux#{"-gnu" if Gem::Version.new(Gem::VERSION) >= Gem::Version.new("3.3.22")}".freeze
  ALL = %w[x86_64-linux-gnu aarch64-linux-gnu x86_64-linux-musl aarch64-linux-musl x86_64-linux aarch64-linux].freeze
  # The others are built by `bin/test --full` alone.
  BUILT = ENV["FULL"] ? ALL : ALL.grep(/\A#{CPU}-linux(-gnu)?\z/)

  attr_reader :path

  def initialize(platform)
    @platform = platform
    @path = File.join(DIRECTORY, "sidekiq_lifecycle-#{SidekiqLifecycle::VERSION}-#{platform}.gem")
  end

  # The Rubies that it has to serve.
  def abis = @platform.match?(/linux\z/) ? OLD_ABIS : ABIS
  def spec = package.spec
  def size = File.size(path)

  # Unpacks it for the block.
  # @yieldparam directory [String]
  def unpacked
    Dir.mktmpdir do |directory|
      package.extract_files(directory)
      yield directory
    end
  end

  private

  def package = Gem::Package.new(path)
end

# A file in ELF, the format of programs and libraries on Linux.
class ElfFile
  def initialize(path)
    @path = path
  end

  def machine = readelf("--file-header")[/Machine: +(.*)/, 1]
  # The libraries that it needs.
  def libraries = readelf("--dynamic").scan(/\(NEEDED\).*\[(.*)\]/).flatten
  def interpreter? = readelf("--program-headers").include?("INTERP")
  def stripped? = !readelf("--section-headers").match?(/ \.(symtab|debug_)/)

  # The versions of glibc's interface that it needs.
  def glibc_versions
    readelf("--version-info").scan(/\bGLIBC_(\d[\d.]*)/).map { |(version)| Gem::Version.new(version) }
  end

  private

  def readelf(part)
    output, status = Open3.capture2("readelf", "--wide", part, @path)
    raise "readelf #{part} #{@path} failed" unless status.success?

    output
  end
end
