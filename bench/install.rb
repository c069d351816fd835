# frozen_string_literal: true

# How long `gem install --local` takes for the platform gem, beside a gem with nothing in it. Called by bench/install.
# Each round installs both, in an order of its own, each into a directory of its own.

require "fileutils"
require "rubygems/package"
require "tmpdir"

ROUNDS = Integer(ARGV.fetch(0, "15"))

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

def install(gem)
  directory = Dir.mktmpdir
  start = now
  system("gem", "install", "--local", "--no-document", "--install-dir", directory, "--ignore-dependencies", gem,
         out: File::NULL) || abort("#{gem} cannot be installed")
  now - start
ensure
  FileUtils.rm_rf(directory)
end

def quartiles(values)
  sorted = values.sort
  [0.5, 0.25, 0.75].map { |part| sorted[((sorted.size - 1) * part).round].round(2) }
end

Dir.chdir("/tmp")
nothing = Gem::Specification.new("empty", "1") { |spec| spec.summary = spec.author = "empty" }
empty = Gem::DefaultUserInteraction.use_ui(Gem::SilentUI.new) { Gem::Package.build(nothing, true) }
old = Gem::Version.new(Gem::VERSION) < Gem::Version.new("3.3.22")
gems = { "an empty gem" => File.expand_path(empty),
         "the platform gem" => Dir["/pkg/sidekiq_lifecycle-*-linux#{"-gnu" unless old}.gem"].first }
times = Hash.new { |hash, name| hash[name] = [] }
gems.each_value { |gem| install(gem) }
ROUNDS.times { gems.to_a.shuffle.each { |name, gem| times[name] << install(gem) } }
times["the difference"] = times["the platform gem"].zip(times["an empty gem"]).map { |gem, least| gem - least }
times.each do |name, seconds|
  median, *middle = quartiles(seconds)
  puts "#{name.ljust(18)} #{median} s (#{middle.join(" to ")})"
end
