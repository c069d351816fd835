#!/bin/sh -e
# Makes a Ruby that uses musl the system's Ruby, and busybox its /bin/sh, as in Alpine. Debian has no such Ruby, so this
# builds Debian's source of it, and of the libraries that it needs.
if [ $# = 1 ]; then
  cp "$0" "$1/tmp/build"
  if ! chroot "$1" sh -e /tmp/build >"$1/tmp/log" 2>&1; then
    tail -n 40 "$1/tmp/log" >&2
    exit 1
  fi
  rm -rf "$1/tmp/build" "$1/tmp/log" "$1/tmp/ruby"
  exit
fi

# A mirror may lack the source of the latest version.
fetch() {
  for version in $(apt-cache showsrc "$1" | sed -n 's/^Version: //p'); do
    if apt-get source --download-only --tar-only "$1=$version"; then
      tar --extract --file "$1"_*.orig.tar.* --one-top-level="$1" --strip-components=1
      return
    fi
  done
  return 1
}

mkdir /tmp/ruby && cd /tmp/ruby
for source in zlib libyaml libffi openssl ruby3.3; do fetch "$source"; done

libraries=/tmp/ruby/libraries
mkdir -p "$libraries/include"
# The kernel's headers, which musl does not have.
ln -s /usr/include/linux /usr/include/asm-generic /usr/include/x86_64-linux-gnu/asm "$libraries/include"
export CC=musl-gcc CFLAGS="-O1 -fPIC -idirafter $libraries/include" PKG_CONFIG_LIBDIR="$libraries/lib/pkgconfig"
MAKEFLAGS=-j$(nproc)
export MAKEFLAGS

(cd zlib && ./configure --static --prefix="$libraries" && make install)
(cd libyaml && autoreconf -fi && ./configure --host=x86_64-linux-musl --disable-shared --prefix="$libraries" && make install)
(cd libffi && ./autogen.sh && ./configure --host=x86_64-linux-musl --disable-shared --disable-docs --prefix="$libraries" &&
  make install)
# Without it Sidekiq's Redis client cannot be loaded.
(cd openssl && ./Configure linux-x86_64 no-shared no-tests no-apps no-docs no-module no-async no-engine no-dso \
  --prefix="$libraries" --libdir=lib --openssldir=/etc/ssl $CFLAGS && make build_libs install_dev)
# Its own gems, such as rake, would be downloaded.
: >ruby3.3/gems/bundled_gems
(cd ruby3.3 && ./configure --build=x86_64-linux-musl --prefix=/usr/local --disable-install-doc --disable-yjit --disable-rjit \
  optflags=-O1 debugflags=-g0 ac_cv_func_crypt_r=no --with-opt-dir="$libraries" CPPFLAGS="-idirafter $libraries/include" &&
  make && make install)

ln -sf /usr/local/bin/ruby /usr/bin/ruby
ln -sf /usr/local/bin/gem /usr/bin/gem
ln -sf busybox /usr/bin/sh
# One of Ruby's own gems, which the specs use.
for part in gems specifications; do
  cp -a /usr/lib/ruby/gems/3.3.0/$part/rexml-* /usr/local/lib/ruby/gems/3.3.0/$part
done
# Debian's packages of gems without an extension, Sidekiq among them.
mkdir -p /usr/local/lib/ruby/site_ruby/3.3.0/rubygems/defaults
cat >/usr/local/lib/ruby/site_ruby/3.3.0/rubygems/defaults/operating_system.rb <<'RUBY'
Gem.singleton_class.prepend(Module.new { def default_path = [*super, "/usr/share/rubygems-integration/all"] })
RUBY
ruby -e 'require "sidekiq"; require "openssl"; require "psych"; require "fiddle"; exit Gem::Platform.local.to_s == "x86_64-linux-musl"'
