# frozen_string_literal: true

# Builds the gem of one platform: ruby script/native_gem.rb [--old-rubygems] PLATFORM COMMAND DIRECTORY RBCONFIG…
#
# PLATFORM is RubyGems' name, COMMAND the native command for it, and DIRECTORY where the gem goes. Each RBCONFIG is the
# rbconfig.rb of a Ruby for that platform, which cannot run here. Cargo builds the extension for each of them;
# CARGO_BUILD_TARGET, CARGO_TARGET_DIR, RUSTFLAGS and BINDGEN_EXTRA_CLANG_ARGS tell it and bindgen how.
#
# --old-rubygems also builds the gem that a RubyGems before 3.3.22 takes, such as that of Debian 12, where the specs
# install it. It is not for a gem server: it is named x86_64-linux, and where Gemfile.lock lists that platform, Bundler
# would look at no other precompiled gem, find that this one does not fit, and build the source gem.

require "digest"
require "fileutils"
require "json"
require "open3"
require "rbconfig"
require "rubygems/package"
require "tmpdir"

# A gem of one platform.
class NativeGem
  ROOT = File.expand_path("..", __dir__)
  # A platform gem builds nothing.
  SOURCES = %r{\A(src|ext)/|\ACargo\.}
  LIBRARY = "lib/sidekiq_lifecycle"
  LICENCES = "LICENSE-THIRD-PARTY"

  def initialize(platform, command, rbconfigs)
    @platform = platform
    @command = command
    @rubies = rbconfigs.map { |rbconfig| settings(rbconfig) }.sort_by { |ruby| version(ruby) }
  end

  # @param directory [String] where the gem goes
  # @param for_old [Boolean] whether it is also built for a RubyGems before 3.3.22
  def build(directory, for_old:)
    FileUtils.mkdir_p(directory)
    built = @rubies.to_h { |ruby| [version(ruby), extension(ruby)] }
    pack(directory, @platform, built)
    return unless for_old

    # Only a Ruby 3.1 comes with one.
    old = built.select { |version, _| version == [3, 1] }
    pack(directory, @platform.sub(/-gnu\z/, ""), old) if @platform.end_with?("-gnu") && old.any?
  end

  private

  def pack(directory, platform, extensions)
    Dir.mktmpdir do |stage|
      # RubyGems loads it once, and each gem changes it.
      spec = Gem::Specification.load(File.join(ROOT, "sidekiq_lifecycle.gemspec")).dup
      files = spec.files.grep_v(SOURCES)
      files.each { |file| copy(File.join(ROOT, file), stage, file, File.stat(File.join(ROOT, file)).mode) }
      native = extensions.transform_keys { |version| File.join(version.join("."), "native.#{@rubies.first["DLEXT"]}") }
                         .merge("sidekiq-lifecycle" => @command).transform_keys { |file| File.join(LIBRARY, file) }
      native.each { |file, source| copy(source, stage, file, 0o755) }
      File.write(File.join(stage, LICENCES), licences)
      spec.files = files + native.keys + [LICENCES]
      restrict(spec, platform, extensions.keys)
      Dir.chdir(stage) { Gem::Package.build(spec, false, false, File.join(directory, spec.file_name)) }
    end
  end

  # What the authors of the crates in the binaries ask for: their names and licences, each text once.
  def licences
    output, status = Open3.capture2("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform",
                                    ENV.fetch("CARGO_BUILD_TARGET"), chdir: ROOT)
    abort "script/native_gem.rb: cargo cannot list the crates" unless status.success?

    crates = JSON.parse(output)["packages"].select { |crate| crate["source"] }.sort_by { |crate| crate["name"] }
    list = crates.map { |crate| "#{crate["name"]} #{crate["version"]}: #{crate["license"]}" }
    sources = crates.map { |crate| File.dirname(crate["manifest_path"]) }
    texts = sources.flat_map { |directory| Dir[File.join(directory, "{LICENSE,COPYING,NOTICE}*")] }
                   .select { |file| File.file?(file) }.map { |file| File.read(file).strip }.uniq
    ["Rust's standard library: MIT OR Apache-2.0\nmusl, in the command for Linux: MIT", list.join("\n"), *texts]
      .join("\n\n#{"-" * 80}\n\n")
  end

  # Kept until Rust's part changes: for Cargo each Ruby would be a change.
  def extension(ruby)
    kept = File.join(target_directory, "native-#{version(ruby).join(".")}-#{sources}")
    return kept if File.exist?(kept)

    environment = ruby.to_h { |name, value| ["RBCONFIG_#{name}", value] }.merge("RBCONFIG_CROSS_COMPILING" => "yes")
    system(environment, "cargo", "build", "--release", "--locked", "--package", "sidekiq_lifecycle_native",
           chdir: ROOT, exception: true)
    FileUtils.rm_f(Dir[kept.sub(/\h+\z/, "*")])
    FileUtils.cp(File.join(target_directory, "libnative.#{@platform.end_with?("darwin") ? "dylib" : "so"}"), kept)
    kept
  end

  # A checksum of what the extensions are made of, and how.
  def sources
    files = Dir[File.join(ROOT, "{src,ext}/**/*.{rs,toml}"), File.join(ROOT, "Cargo.{toml,lock}")].sort
    settings = ENV.select { |name,| name == "RUSTFLAGS" || name.start_with?("CARGO_PROFILE_") }.sort
    Digest::SHA256.hexdigest([*settings, *files.map { |file| File.binread(file) }].join("\0"))
  end

  def target_directory
    File.join(ENV.fetch("CARGO_TARGET_DIR", File.join(ROOT, "target")), ENV.fetch("CARGO_BUILD_TARGET"), "release")
  end

  def restrict(spec, platform, versions)
    spec.platform = platform
    spec.extensions.clear
    major, minor = versions.last
    spec.required_ruby_version = [">= #{versions.first.join(".")}", "< #{major}.#{minor + 1}.dev"]
    # Older ones do not tell glibc and musl apart.
    spec.required_rubygems_version = platform.match?(/linux\z/) ? "< 3.3.22" : ">= 3.3.22"
  end

  # The settings of a Ruby that cannot run here. The file refuses to be loaded by a Ruby of another version.
  def settings(rbconfig)
    version = File.read(rbconfig)[/lib version \((\d+\.\d+\.\d+)\)/, 1]
    script = "Object.send(:remove_const, :RUBY_VERSION); RUBY_VERSION = ARGV[1]; load ARGV[0]; " \
             'print RbConfig::CONFIG.flat_map { |pair| pair }.join("\0")'
    output, status = Open3.capture2(RbConfig.ruby, "--disable=gems", "-e", script, rbconfig, version)
    abort "script/native_gem.rb: #{rbconfig} cannot be loaded" unless status.success?

    output.split("\0", -1).each_slice(2).to_h
  end

  def version(ruby) = [ruby["MAJOR"].to_i, ruby["MINOR"].to_i]

  def copy(source, stage, file, mode)
    FileUtils.mkdir_p(File.dirname(File.join(stage, file)))
    FileUtils.install(source, File.join(stage, file), mode: mode & 0o755)
  end
end

for_old = !ARGV.delete("--old-rubygems").nil?
platform, command, directory, *rbconfigs = ARGV
abort "usage: ruby script/native_gem.rb [--old-rubygems] PLATFORM COMMAND DIRECTORY RBCONFIG…" if rbconfigs.empty?
NativeGem.new(platform, File.expand_path(command), rbconfigs).build(File.expand_path(directory), for_old:)
