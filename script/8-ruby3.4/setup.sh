#!/bin/sh -e
# Adds Debian experimental, from where apt takes only what the suite does not have.
sed -n 's/ forky / experimental /p' "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/experimental.list"
grep -q . "$1/etc/apt/sources.list.d/experimental.list"
