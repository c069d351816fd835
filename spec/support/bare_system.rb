# frozen_string_literal: true

require "open3"

# A Debian system that has Ruby, Sidekiq and Bundler, and nothing to build a gem with: no compiler, no Rust, no
# libclang, no git. `make_bare_roots` in script/lib.sh makes it. Nothing in it is changed; /app is the example's
# directory, and /pkg has the platform gems.
module BareSystem
  ROOT = "/build/bare"
  # Such a system with Debian 12's own Rust.
  OLD_RUST = "/build/bare-cargo"

  ENTER = <<~SH
    mount --bind "$1" "$2/app"
    mount --bind "$3" "$2/pkg"
    mount -t tmpfs tmpfs "$2/tmp"
    mount -t proc proc "$2/proc"
    mount --rbind /dev "$2/dev"
    root=$2
    shift 3
    exec chroot "$root" env -i PATH=/app/gems/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 GEM_HOME=/app/gems \
      sh -c 'cd /app && "$@"; exit $?' sh "$@"
  SH

  # What starts a command in it, in a PID namespace of its own, in which a shell is PID 1.
  def self.launcher(app, root = ROOT)
    %w[unshare --mount --pid --fork --kill-child --propagation private sh -ec] + [ENTER, "sh", app, root, PlatformGem::DIRECTORY]
  end

  # The platform gem for this machine, as a path in it.
  def gem_file = File.join("/pkg", File.basename(PlatformGem.new(PlatformGem::HERE).path))

  # Runs a command in it: [exit status, what it printed].
  def bare(*command, root: ROOT)
    output, status = Open3.capture2e(*BareSystem.launcher(app, root), *command)
    [status.exitstatus, output]
  end

  # The same, for a command that succeeds.
  # @return [String] what it printed
  def bare!(*command)
    status, output = bare(*command)
    expect(status).to eq(0), output
    output
  end
end
