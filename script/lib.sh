# What the scripts of bin/ and script/ share. Source it in the repository's root.
#
# Each major of Sidekiq is tested in a Debian system that ships it, with that system's Ruby: a directory made by
# mmdebstrap, kept read-only, and entered with unshare and chroot. Rust is this machine's rustup toolchain.
#
# A system is named after its major; one with another Ruby than Debian's, after that as well.

rust_needed=1.85
systems="6 7 8 8-ruby3.4"
# The last takes long to make: a Ruby is built for it. bin/test has it only with --full.
all_systems="$systems 7-musl"
# What the core is only compiled for, because no such machine is here to run it.
other_platforms="aarch64-unknown-linux-gnu aarch64-apple-darwin"
# An ordinary run of the tests leaves out the first, which --full builds and runs.
platforms_to_check() { if [ -n "${FULL:-}" ]; then echo "$other_platforms"; else echo "${other_platforms#* }"; fi; }
cache=${SIDEKIQ_LIFECYCLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sidekiq_lifecycle}
packages=ruby,ruby-dev,ruby-sidekiq,ruby-rspec,ruby-railties,redis-server,libclang-dev,gcc,make,libc6-dev,procps,python3-minimal
# The inits and shells of the launch forms.
packages=$packages,tini,dumb-init,catatonit,busybox,zsh,ksh93u+m,strace
# The browser that looks at the page in Sidekiq's Web UI, what drives it, and a web server for that page.
browser=chromium,chromium-driver,ruby-capybara,ruby-selenium-webdriver,puma,fonts-dejavu-core

is_system() { [[ " $all_systems " == *" ${1:-none} "* ]]; }

# Debian experimental has Ruby 3.4 today, but keeps nothing for long. The rest is tested without it.
is_optional() { [ "$1" = 8-ruby3.4 ]; }

suite_of() {
  case "$1" in 6) echo bookworm ;; 7*) echo trixie ;; 8*) echo forky ;; esac
}

# Further packages of each system. Two run systemd (Debian 14's does not support cgroups version 1). One of these deploys,
# with Capistrano and Docker's commands, and has foreman and Puma. One has the linters and measures the costs.
packages_of() {
  case "$1" in
    6) echo "$packages,$browser,bundler,systemd,systemd-sysv,sudo" ;;
    7) echo "$packages,$browser,ruby-foreman,supervisor,runit,s6,capistrano,bundler,git,openssh-server,openssh-client,systemd,systemd-sysv,sudo,docker-cli,docker-compose" ;;
    8) echo "$packages,$browser,rubocop,yard,curl" ;;
    8-ruby3.4) echo "$packages,ruby3.4,ruby3.4-dev" ;;
    7-musl) echo "$packages,musl-tools,linux-libc-dev,autoconf,automake,libtool,libltdl-dev,texinfo,perl,xz-utils" ;;
  esac
}

# What changes a system while it is made, as hooks of mmdebstrap.
hooks_of() { find script -path "script/$1/*" | sort; }

can_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

apt_install() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

compile_for() {
  RUSTFLAGS="-D warnings" CARGO_TARGET_DIR="$cache/build/platforms" cargo check --quiet --locked --target "$1"
}

# Fails and prints what is wrong with Rust here; succeeds silently if nothing is.
rust_missing() {
  local version
  if ! version=$(cargo --version 2>/dev/null | cut -d' ' -f2); then
    echo "Rust $rust_needed or later is needed; install it with rustup (https://rustup.rs)"
    return 1
  fi
  if [ "$(printf '%s\n' "$rust_needed" "$version" | sort -V | head -n 1)" != "$rust_needed" ]; then
    echo "Rust $rust_needed or later is needed, this is $version; update it with: rustup update"
    return 1
  fi
}

# Fails and prints why the Debian systems cannot be made here; succeeds silently if they can.
roots_missing() {
  local sysroot
  if [ "$(uname -s)" != Linux ]; then
    echo "the Debian systems of the tests need Linux"
  elif [ "$(id -u)" != 0 ]; then
    echo "the Debian systems of the tests need root; run as root, for instance with sudo -E"
  elif ! command -v mmdebstrap >/dev/null; then
    echo "mmdebstrap is needed; install it (Debian and Ubuntu: apt-get install mmdebstrap)"
  elif ! unshare --mount --pid --fork true 2>/dev/null; then
    echo "unshare(1) is not allowed to make namespaces here; run outside of this container, or with CAP_SYS_ADMIN"
  elif sysroot=$(rustc --print sysroot) && [ "$sysroot" = /usr ]; then
    echo "Rust must come from rustup (https://rustup.rs): the system's own cannot be used in another system"
  else
    return 0
  fi
  return 1
}

# Whether a system installs a platform gem; otherwise the gem is built in it. With $PLATFORM_GEMS it is built only in 8's.
takes_platform_gem() { [ "$1" = 7-musl ] || { [ "${PLATFORM_GEMS:-}" ] && [ "$1" != 8 ]; }; }

# Builds the platform gem that a system installs, and prints its path.
platform_gem_of() {
  local libc=gnu gems
  if [ "$1" = 7-musl ]; then libc=musl; fi
  # shellcheck disable=SC2046 # it is a list of words
  gems=$(script/platform_gem $(how_to_build) "$(uname -m)-linux-$libc") || return 1
  # RubyGems before 3.3.22, as in Debian 12, takes the one that is named without the libc.
  if [ "$1" = 6 ]; then libc=; fi
  grep "linux${libc:+-$libc}\.gem$" <<<"$gems"
}

# The name depends on the packages and the hooks, so that a change makes a new system.
root_of() {
  local hooks
  hooks=$(hooks_of "$1")
  # shellcheck disable=SC2086 # it is a list of words
  echo "$cache/roots/$(suite_of "$1")-$({ packages_of "$1" && cat ${hooks:-/dev/null}; } | cksum | cut -d' ' -f1)"
}

# Whether the system is there: bin/setup has made it.
has_root() { [ -e "$(root_of "$1")" ]; }

# Removes a system that was not finished. What mmdebstrap has mounted in it may still be there, the machine's /dev among it.
discard() {
  findmnt --raw --noheadings --output TARGET | { grep --fixed-strings "$1/" || true; } | tac | xargs --no-run-if-empty umount --lazy
  rm -rf --one-file-system "$1"
}

make_root() {
  local root hooks duration="about half a minute"
  if [ "$1" = 7-musl ]; then duration="a quarter of an hour or more, because its Ruby is built"; fi
  root=$(root_of "$1")
  hooks=$(hooks_of "$1")
  mkdir -p "$cache/roots"
  exec 9>"$root.lock"
  flock 9
  if [ ! -e "$root" ]; then
    echo "Making the Debian $(suite_of "$1") for Sidekiq $1 (once, $duration)…"
    discard "$root.part"
    # Debian testing changes all the time, and a mirror's list of it may be somewhat old. A system can be made again at any
    # time, so dpkg need not wait for the disk.
    if ! mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --include="$(packages_of "$1")" ${hooks:+--hook-dir="script/$1"} \
      --aptopt='Acquire::Check-Valid-Until "false"' "$(suite_of "$1")" "$root.part" 2>"$root.log"; then
      cat "$root.log" >&2
      echo "bin/setup: the Debian $(suite_of "$1") for Sidekiq $1 could not be made; see above" >&2
      return 1
    fi
    mkdir -p "$root.part"/{repo,build,opt/rust,opt/cargo}
    # Without it Chromium's driver does not find Chromium.
    echo "127.0.0.1 localhost" >"$root.part/etc/hosts"
    mv "$root.part" "$root"
  fi
  exec 9>&-
}

# Runs a command in a system: in_root SYSTEM COMMAND ARG…
# /repo is this repository, read-only; /build is kept. Everything else is discarded, and every process is ended.
# Docker's socket is there if Docker runs; for Docker the system is $ROOT_OUTSIDE and /build is $BUILD_OUTSIDE.
in_root() {
  local system=$1 root build rust cargo_home gem=
  shift
  root=$(root_of "$system")
  if takes_platform_gem "$system"; then gem=$(platform_gem_of "$system") || return 1; fi
  build=$cache/build/$system
  rust=$(rustc --print sysroot)
  cargo_home=${CARGO_HOME:-$HOME/.cargo}
  mkdir -p "$build"
  unshare --mount --pid --fork --kill-child --propagation private -- bash -euc '
    root=$1 repo=$2 build=$3 rust=$4 cargo=$5 gem=$6
    shift 6
    mount --bind "$root" "$root"
    mount -o remount,ro,bind "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs tmpfs "$root/run"
    chmod 1777 "$root/tmp"
    mount --bind "$repo" "$root/repo"
    mount -o remount,ro,bind "$root/repo"
    mount --bind "$build" "$root/build"
    mount --bind "$rust" "$root/opt/rust"
    mount --bind "$cargo" "$root/opt/cargo"
    if [ -S /run/docker.sock ]; then touch "$root/run/docker.sock" && mount --bind /run/docker.sock "$root/run/docker.sock"; fi
    exec chroot "$root" env -i "PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
      HOME=/tmp LANG=C.UTF-8 CARGO_HOME=/opt/cargo CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/build/target SPEC_GEMS=/build/gems IN_ROOT=1 \
      "ROOT_OUTSIDE=$root" "BUILD_OUTSIDE=$build" \
      ${gem:+GEM_FILE=/repo/$gem} ${CI:+CI=$CI} ${ROUNDS:+ROUNDS=$ROUNDS} ${FULL:+FULL=$FULL} ${TERM:+TERM=$TERM} bash -euc "cd /repo && exec \"\$@\"" bash "$@"
  ' bash "$root" "$PWD" "$build" "$rust" "$cargo_home" "$gem" "$@"
}

# Fails and prints why there can be no containers here; succeeds silently if there can.
docker_missing() {
  if ! [ -S /run/docker.sock ] || ! command -v docker >/dev/null || ! docker version >/dev/null 2>&1; then
    echo "Docker does not run here"
    return 1
  fi
}

# Starts Docker for as long as this script runs. Its containers have no network.
start_docker() {
  dockerd --iptables=false --bridge=none >"$1" 2>&1 &
  docker=$!
  for _ in $(seq 60); do
    if docker_missing >/dev/null; then return; fi
    kill -0 "$docker" 2>/dev/null || break
    sleep 0.5
  done
  echo "Docker does not start here:" && tail -n 3 "$1"
}

# Fails and prints why there can be no virtual machine here; succeeds silently if there can. Installs qemu if possible:
# qemu_missing x86_64 qemu-system-x86
qemu_missing() {
  if ! command -v "qemu-system-$1" >/dev/null && can_install; then apt_install "$2" 2>/dev/null || true; fi
  if ! command -v "qemu-system-$1" >/dev/null; then
    echo "qemu-system-$1 is not installed (Debian and Ubuntu: apt-get install $2)"
    return 1
  fi
}

# Fails and prints why this kernel cannot run arm64's programs; succeeds silently if it can. mmdebstrap runs the scripts of
# Debian's packages, and arch-test tells it that they run. Installs qemu if possible.
arm64_programs_missing() {
  local binfmt=/proc/sys/fs/binfmt_misc
  if ! command -v arch-test >/dev/null && can_install; then apt_install arch-test qemu-user-static 2>/dev/null || true; fi
  if ! command -v arch-test >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
    echo "arch-test and qemu-aarch64-static are needed (Debian and Ubuntu: apt-get install arch-test qemu-user-static)"
    return 1
  fi
  if arch-test arm64 >/dev/null 2>&1; then return; fi
  # Without systemd nobody has told the kernel.
  [ -e "$binfmt/register" ] || mount -t binfmt_misc binfmt_misc "$binfmt" 2>/dev/null || true
  # The first 20 bytes of a file for arm64, and their mask; F opens the interpreter now, so that it is found in a chroot.
  printf ':qemu-aarch64:M::%s:%s:%s:F' \
    '\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00' \
    '\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff' \
    "$(command -v qemu-aarch64-static)" 2>/dev/null >"$binfmt/register" || true
  if ! arch-test arm64 >/dev/null 2>&1; then
    echo "this kernel does not run programs for arm64 through qemu (binfmt_misc)"
    return 1
  fi
}

# Leaves out the optimizations, which take the longest.
quick_profile="CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=0"

# Builds the gem and installs it as a user would: install_gem REPOSITORY WORK [optimized]. Sets GEM_HOME and PATH to use it.
# If $SPEC_GEMS is set, an installed gem is kept there and used until one of its files changes. If $GEM_FILE is set, that is
# the gem. It is built with $quick_profile, unless it is called with "optimized" or with $FULL.
install_gem() {
  local keep contents gem_file=$2/sidekiq_lifecycle.gem profile=()
  if [ "${3:-}" != optimized ] && [ -z "${FULL:-}" ]; then
    profile=($quick_profile)
  fi
  keep=${SPEC_GEMS:-$2}
  mkdir -p "$keep"
  if [ -n "${GEM_FILE:-}" ]; then contents=$(cksum <"$GEM_FILE"); else contents=$(cd "$1" && find src ext lib exe sig Cargo.toml Cargo.lock sidekiq_lifecycle.gemspec -type f | sort | xargs cksum | cksum); fi
  export GEM_HOME=$keep/${contents%% *}${profile:+-quick}
  export PATH=$GEM_HOME/bin:$PATH
  exec 9>"$keep/lock"
  flock 9
  if [ ! -e "$GEM_HOME/installed" ]; then
    find "$keep" -mindepth 1 -maxdepth 1 -name '[0-9]*' -mtime +1 -exec rm -rf {} +
    if [ -n "${GEM_FILE:-}" ]; then
      gem_file=$GEM_FILE
    else
      (cd "$1" && gem build --silent --output "$gem_file" sidekiq_lifecycle.gemspec >"$2/build.log" 2>&1) ||
        { cat "$2/build.log" >&2; return 1; }
    fi
    env "${profile[@]}" gem install --local --no-document "$gem_file" >"$2/install.log" 2>&1 || { cat "$2/install.log" >&2; return 1; }
    touch "$GEM_HOME/installed"
  fi
  exec 9>&-
}

# Lets a system begin with the crates that another has compiled, but for those that depend on its Ruby: seed_target 6 8.
# Older systems first: a build script that newer ones have linked may need a newer libc.
seed_target() {
  local from=$cache/build/$1/target/release to=$cache/build/$2/target/release
  if [ ! -e "$from" ] || [ -e "$to" ]; then return; fi
  mkdir -p "${to%/*}"
  cp -a "$from" "$to.part"
  rm -rf "$to.part"/{build,.fingerprint}/{rb-sys,magnus,sidekiq_lifecycle}*
  mv "$to.part" "$to"
}

# The platforms that have a gem of their own, by RubyGems' names.
gem_platforms="x86_64-linux-gnu aarch64-linux-gnu x86_64-linux-musl aarch64-linux-musl"

# Those that a run of the tests builds: this machine's own, and with $FULL all of them.
platforms_to_build() {
  if [ -n "${FULL:-}" ]; then echo "$gem_platforms"; else echo "$(uname -m)-linux-gnu"; fi
}

how_to_build() { if [ -z "${FULL:-}" ]; then echo --quick; fi; }

# The Rubies whose extensions a platform gem holds, and the Debian suites with their headers. (The release workflow has more.)
gem_rubies="3.1:bookworm 3.3:trixie 3.4:experimental"

# How the command of a platform gem is linked. It needs no library, so the same one serves glibc and musl.
command_flags="-C target-feature=+crt-static -C relocation-model=static"

# Rust's own linker links for every architecture, so no foreign compiler is needed.
own_linker="-C linker=rust-lld -C linker-flavor=ld.lld"

# Unpacks Debian packages and what they need, for any architecture, and runs none of their scripts:
# extract_packages x86_64|aarch64 SUITE PACKAGES DIRECTORY
extract_packages() {
  local mirror sources suite=$2 architecture=amd64
  if [ "$1" = aarch64 ]; then architecture=arm64; fi
  # A suite that is no longer supported moves to the archive.
  for mirror in deb archive; do
    sources=("deb http://$mirror.debian.org/debian $suite main")
    # Experimental is an addition to unstable.
    if [ "$suite" = experimental ]; then sources+=("deb http://$mirror.debian.org/debian unstable main"); fi
    rm -rf "$4"
    if mmdebstrap --quiet --variant=extract --architectures="$architecture" --include="$3" \
      --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$4" "${sources[@]}" 2>>"$4.log"; then return; fi
  done
  cat "$4.log" >&2
  return 1
}

# The directory in which extensions for an architecture are built, with the headers and libraries of Debian. It is in /build
# of Sidekiq 8's system.
sysroot_of() {
  echo "$cache/build/8/sysroots/$1-$(declare -f extract_packages make_sysroot | cksum | cut -d' ' -f1)-${gem_rubies//[: ]/-}"
}

# make_sysroot x86_64|aarch64
#   usr/   libc's and Ruby's headers, and each Ruby's rbconfig.rb
#   gnu/   what an extension is linked with: glibc of Debian 11, so that it also runs on systems as old as that
#   musl/  the same for musl. Ruby's headers are those of Debian's Ruby all the same: an extension uses only what they
#          say about Ruby, and that does not depend on the libc.
# In both, what unwinds the stack is a static library, because not every image has libgcc_s.so.1. For musl it is the one
# that comes with Rust.
make_sysroot() {
  local root triple=$1-linux-gnu from suite version name
  root=$(sysroot_of "$1")
  mkdir -p "${root%/*}"
  exec 9>"$root.lock"
  flock 9
  if [ ! -e "$root" ]; then
    echo "Fetching headers and libraries for $1 (once)…"
    rm -rf "$root.part" "$root.log"
    mkdir -p "$root.part"/{usr/include,gnu,musl,"usr/lib/$triple/ruby"}
    from=$root.packages
    extract_packages "$1" bullseye libc6-dev,libgcc-10-dev,musl-dev "$from" || return 1
    cp -a "$from/usr/include/." "$root.part/usr/include"
    cp "$from/lib/$1-linux-musl/libc.so" "$root.part/musl"
    for name in c m dl pthread rt util; do
      cp -L "$from/lib/$triple/lib$name".so.[0-9] "$root.part/gnu"
      ln -s "$(cd "$root.part/gnu" && echo "lib$name".so.[0-9])" "$root.part/gnu/lib$name.so"
    done
    # Older glibcs have a part of their functions in a static library.
    cp "$from/usr/lib/$triple/libc_nonshared.a" "$root.part/gnu"
    rm "$root.part/gnu/libc.so"
    echo "INPUT(libc.so.6 -lc_nonshared)" >"$root.part/gnu/libc.so"
    cp "$from/usr/lib/gcc/$triple/10"/libgcc{,_eh}.a "$root.part/gnu"
    echo "INPUT(-lgcc_eh -lgcc)" >"$root.part/gnu/libgcc_s.so"
    echo "INPUT(/opt/rust/lib/rustlib/$1-unknown-linux-musl/lib/self-contained/libunwind.a)" >"$root.part/musl/libgcc_s.so"
    for name in $gem_rubies; do
      version=${name%:*} suite=${name#*:}
      extract_packages "$1" "$suite" "ruby$version-dev" "$from" || return 1
      cp -a "$from/usr/include/ruby-$version.0" "$root.part/usr/include"
      cp -a "$from/usr/include/$triple/ruby-$version.0" "$root.part/usr/include/$triple"
      # It finds the headers by its own path.
      install -D "$from/usr/lib/$triple/ruby/$version.0/rbconfig.rb" -t "$root.part/usr/lib/$triple/ruby/$version.0"
    done
    rm -rf "$from"
    mv "$root.part" "$root"
  fi
  exec 9>&-
}

# Runs Cargo or a Ruby that calls it for another system, with the settings in $profile:
# cross_compile TARGET RUSTFLAGS BINDGEN_FLAGS COMMAND ARG…
cross_compile() {
  rustup target add "$1" >/dev/null 2>&1 || { echo "rustup cannot add the target $1" >&2 && return 1; }
  in_root 8 env CARGO_TARGET_DIR=/build/platforms CARGO_BUILD_TARGET="$1" RUSTFLAGS="$own_linker $2" \
    BINDGEN_EXTRA_CLANG_ARGS="$3" ${profile:-} "${@:4}"
}

# Systems of a major that have no tools to build a gem with: bare, which has Ruby, Sidekiq and Bundler; and for Debian 12
# bare-cargo, with its own Rust. They are in /build of the major's system.
make_bare_roots() {
  make_bare_root "$1" bare ruby-sidekiq,bundler
  if [ "$1" = 6 ]; then make_bare_root "$1" bare-cargo ruby,cargo; fi
}

# make_bare_root SYSTEM NAME PACKAGES
make_bare_root() {
  local root=$cache/build/$1/$2 suite made
  suite=$(suite_of "$1")
  made=$root/made-$(echo "$3" "$(declare -f make_bare_root)" | cksum | cut -d' ' -f1)
  mkdir -p "$cache/build/$1"
  exec 9>"$root.lock"
  flock 9
  if [ ! -e "$made" ]; then
    echo "Making a Debian $suite with $3 (once, about half a minute)…"
    discard "$root"
    mmdebstrap --quiet --variant=minbase --include="$3" --aptopt='Acquire::Check-Valid-Until "false"' \
      "$suite" "$root" 2>"$root.log" || { cat "$root.log" >&2 && return 1; }
    mkdir -p "$root"/{app,pkg}
    touch "$made"
  fi
  exec 9>&-
}

# Prints the major of the Sidekiq that this machine's own Ruby loads; fails if there is none.
sidekiq_here() {
  ruby -e 'begin; require "sidekiq"; rescue LoadError; exit 1; end; puts Sidekiq::VERSION.to_i' 2>/dev/null
}

# What validates the files that generate writes, and the CI workflow, from PyPI.
validator_packages="kubernetes-validate botocore cfn-lint check-jsonschema"

validators() { echo "$cache/validators-$(echo "$validator_packages" | cksum | cut -d' ' -f1)"; }

# Fails and prints why their Python environment cannot be made here; succeeds silently if it can.
validators_missing() {
  if ! command -v python3 >/dev/null; then
    echo "python3 is needed"
  elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo "Python's venv is needed (Debian and Ubuntu: apt-get install python3-venv)"
  elif ! make_validators >/dev/null 2>&1; then
    echo "pip cannot install $validator_packages here"
  else
    return 0
  fi
  return 1
}

make_validators() {
  local place
  place=$(validators)
  mkdir -p "$cache"
  exec 9>"$place.lock"
  flock 9
  if [ ! -e "$place/made" ]; then
    echo "Installing $validator_packages (once)…"
    rm -rf "$place"
    # shellcheck disable=SC2086 # it is a list of words
    python3 -m venv "$place" && "$place/bin/pip" install --quiet --disable-pip-version-check $validator_packages || return 1
    touch "$place/made"
  fi
  exec 9>&-
}

# Fails and prints that there is no Docker Compose here; succeeds silently if there is. Debian's is docker-compose.
compose_missing() {
  if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
    echo "Docker Compose is not installed"
    return 1
  fi
}

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}
