# The command, linked in every way that was considered. Source it after script/lib.sh, in the repository's root.

linked="dynamic-glibc static-glibc static-pie-musl static-musl"

# Builds them: build_linked MAJOR NAME…. In the system of that major they are in /build/linked.
build_linked() {
  local major=$1 name target flags
  shift
  mkdir -p "$cache/build/$major/linked"
  for name in "$@"; do
    case "$name" in *-musl) target=$(uname -m)-unknown-linux-musl ;; *) target=$(uname -m)-unknown-linux-gnu ;; esac
    case "$name" in
      static-pie-*) flags="-C target-feature=+crt-static" ;;
      static-*) flags="-C target-feature=+crt-static -C relocation-model=static" ;;
      *) flags= ;;
    esac
    RUSTFLAGS=$flags cargo build --release --locked --quiet --bin sidekiq-lifecycle \
      --target "$target" --target-dir "$cache/build/linked/$name"
    cp "$cache/build/linked/$name/$target/release/sidekiq-lifecycle" "$cache/build/$major/linked/$name"
  done
}
