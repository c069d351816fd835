#!/bin/sh -e
# Makes Ruby 3.4 the system's Ruby. Debian builds json only for its own default Ruby, so Sidekiq gets the older json
# that Ruby 3.4 has: it only generates and parses, which is the same in both.
ln -sf ruby3.4 "$1/usr/bin/ruby"
sed -i '/<json>/s/>= 2[.][0-9.]*/>= 2.9/' "$1"/usr/share/rubygems-integration/all/specifications/sidekiq-8.*.gemspec
chroot "$1" ruby -e 'require "sidekiq"; exit RUBY_VERSION.start_with?("3.4.")'
