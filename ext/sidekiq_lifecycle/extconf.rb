# frozen_string_literal: true

# Writes the Makefile that builds the extension and the native command in one go and installs them side by side.
# RubyGems' own Cargo builder builds no command, and puts the library in the wrong place before RubyGems 3.4.6.

require "rbconfig"
require "shellwords"

RUST = "1.85" # Cargo.toml says the same: workspace.package.rust-version

# The command that installs what the build needs, by the system's ID and VERSION_ID in os-release(5). It is the system's
# own Rust where that is new enough: Debian 12 has such a one for its browsers, and Ubuntu has rustup.
REMEDIES = {
  /\Aalpine / => "apk add build-base cargo clang-dev",
  /\Afedora / => "dnf install -y gcc make cargo clang-devel",
  /\Adebian 12\z/ => "apt-get install -y build-essential cargo-web libclang-dev",
  /\Adebian (1[3-9])?\z/ => "apt-get install -y build-essential cargo libclang-dev",
  /\Aubuntu 2[4-9]\z/ => "apt-get install -y build-essential rustup libclang-dev && rustup default stable",
  // => "curl --proto '=https' -sSf https://sh.rustup.rs | sh, and install a C compiler, make and libclang"
}.freeze

def remedy
  # The gem for Heroku is not built there, but Bundler takes it only if Gemfile.lock lists the platform.
  return "bundle lock --add-platform x86_64-linux" if ENV.fetch("STACK", "").start_with?("heroku")

  release = File.exist?("/etc/os-release") ? File.read("/etc/os-release") : ""
  system = "#{release[/^ID="?(\w+)/, 1]} #{release[/^VERSION_ID="?(\d+)/, 1]}"
  REMEDIES.find { |pattern, _| pattern.match?(system) }.last
end

def give_up(needed, found, command = remedy)
  abort "\nsidekiq_lifecycle: building this gem needs #{needed}, and #{found}; run: #{command}\n\n"
end

def runs?(program) = system(program, "--version", out: File::NULL, err: File::NULL)

cargo = ENV.fetch("CARGO", "cargo")
version = begin
  IO.popen([cargo, "--version"], err: File::NULL, &:read)[/\d+\.\d+/]
rescue SystemCallError
  give_up "Rust #{RUST} or later", "its cargo was not found"
end
if version.nil? || Gem::Version.new(version) < Gem::Version.new(RUST)
  give_up "Rust #{RUST} or later", "#{cargo} is #{version || "broken"}", *("rustup update" if runs?("rustup"))
end
%w[cc make].each { |program| give_up "a C compiler and make", "#{program} was not found" unless runs?(program) }

root = File.expand_path("../..", __dir__)
target = ENV.fetch("CARGO_TARGET_DIR", nil)
musl = RbConfig::CONFIG["host_os"].include?("musl")
library = "libnative.#{RbConfig::CONFIG["host_os"].include?("darwin") ? "dylib" : "so"}"
no_clang = "sidekiq_lifecycle: building this gem needs libclang, and it was not found; run: #{remedy}"

File.write("Makefile", <<~MAKEFILE)
  sitearchdir = #{RbConfig::CONFIG["sitearchdir"]}
  DESTDIR =
  TARGET = #{target || File.join(Dir.pwd, "target")}
  INSTALL_DIR = $(DESTDIR)$(sitearchdir)/sidekiq_lifecycle
  export RUBY = #{RbConfig.ruby}
  export CARGO_TARGET_DIR = $(TARGET)
  #{"export RUSTFLAGS = -C target-feature=-crt-static" if musl}

  all:
  \t@#{cargo} build --release --locked --manifest-path #{root}/Cargo.toml \\
  \t  --package sidekiq_lifecycle --package sidekiq_lifecycle_native >cargo.log 2>&1 \\
  \t  && cat cargo.log || { cat cargo.log; if grep -qi 'libclang' cargo.log; then echo; echo #{Shellwords.escape(no_clang)}; fi; exit 1; }

  install: all
  \tmkdir -p "$(INSTALL_DIR)"
  \tinstall -m 0755 "$(TARGET)/release/#{library}" "$(INSTALL_DIR)/native.#{RbConfig::CONFIG["DLEXT"]}"
  \tinstall -m 0755 "$(TARGET)/release/sidekiq-lifecycle" "$(INSTALL_DIR)/sidekiq-lifecycle"

  clean:
  \trm -f cargo.log
  \t#{target ? ":" : "rm -rf \"$(TARGET)\""}

  distclean: clean
  \trm -f Makefile

  .PHONY: all install clean distclean
MAKEFILE
