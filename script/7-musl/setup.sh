#!/bin/sh -e
# Adds Debian's sources.
sed -n 's/^deb /deb-src /p' "$1"/etc/apt/sources.list >"$1/etc/apt/sources.list.d/sources.list"
