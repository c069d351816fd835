# frozen_string_literal: true

# Writes the Makefile that builds the extension and the native command in one go and installs them side by side.
# RubyGems' own Cargo builder builds no command, and puts the library in the wrong place before RubyGems 3.4.6.

require "rbconfig"

RUST = "1.85" # Cargo.toml says the same: workspace.package.rust-version

def give_up(sentence)
  abort "\nsidekiq_lifecycle: #{sentence}\n\n"
end

cargo = ENV.fetch("CARGO", "cargo")
version = begin
  IO.popen([cargo, "--version"], err: File::NULL, &:read)[/\d+\.\d+/]
rescue SystemCallError
  give_up "Rust's cargo is needed to build this gem and was not found; install Rust #{RUST} or later " \
          "(https://rustup.rs) and try again."
end
if version.nil? || Gem::Version.new(version) < Gem::Version.new(RUST)
  give_up "Rust #{RUST} or later is needed to build this gem, and #{cargo} is #{version || "broken"}; " \
          "update it (rustup update) and try again."
end

root = File.expand_path("../..", __dir__)
target = ENV.fetch("CARGO_TARGET_DIR", nil)
musl = RbConfig::CONFIG["host_os"].include?("musl")
library = "libnative.#{RbConfig::CONFIG["host_os"].include?("darwin") ? "dylib" : "so"}"
no_clang = "sidekiq_lifecycle: libclang is needed to build this gem and was not found; install it " \
           "(Debian and Ubuntu: apt-get install libclang-dev; Fedora: dnf install clang-devel; " \
           "Alpine: apk add clang-dev) and try again."

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
  \t  && cat cargo.log || { cat cargo.log; if grep -qi 'libclang' cargo.log; then echo; echo '#{no_clang}'; fi; exit 1; }

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
