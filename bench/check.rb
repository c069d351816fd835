# frozen_string_literal: true

# What `check` costs, as a platform gem and as the source gem have it, beside stat(1) of the ready file, a line of Ruby,
# and curl that asks an HTTP probe. Called by bench/check.
#
# This process registers itself as a Sidekiq that is ready. Each round calls all of them once, in an order of its own;
# the time is that from the start of the process to its end, told as the ratio to stat's of the same round: medians and
# the middle half.

require "socket"
require "sidekiq_lifecycle"
require "sidekiq_lifecycle/cli"

ROUNDS = Integer(ARGV.fetch(0, "500"))
READY = "tmp/sidekiq/ready"

worker = SidekiqLifecycle::Native::Process.register(File.expand_path("tmp/sidekiq"), nil, "{}")
worker.record_started

# The smallest HTTP probe there is, in a process of its own.
server = TCPServer.new("127.0.0.1", 0)
prober = fork do
  loop do
    server.accept.then do |client|
      nil until client.gets == "\r\n"
      client.write("HTTP/1.1 #{File.exist?(READY) ? 200 : 503} Ready\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
      client.close
    end
  end
end

commands = {
  "stat" => ["stat", READY],
  "check" => ["/build/linked/static-musl", "check"],
  "check, built from source" => [SidekiqLifecycle::CLI.path, "check"],
  "ruby" => ["ruby", "-e", "exit File.exist?(#{READY.inspect})"],
  "ruby --disable=gems" => ["ruby", "--disable=gems", "-e", "exit File.exist?(#{READY.inspect})"],
  "curl" => ["curl", "-sf", "http://127.0.0.1:#{server.addr[1]}/"]
}
unless ENV.fetch("PATH").split(":").any? { |directory| File.executable?(File.join(directory, "curl")) }
  warn "curl is not here and left out"
  commands.delete("curl")
end

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

def call(command)
  start = now
  system(*command, out: File::NULL) || abort("#{command.join(" ")} fails")
  now - start
end

def quartiles(values)
  sorted = values.sort
  [0.5, 0.25, 0.75].map { |part| sorted[((sorted.size - 1) * part).round] }
end

times = Hash.new { |hash, name| hash[name] = [] }
commands.each_value { |command| 5.times { call(command) } }
ROUNDS.times do
  worker.record_heartbeat(0)
  commands.keys.shuffle.each { |name| times[name] << call(commands[name]) }
end
Process.kill(:KILL, prober)
Process.wait(prober)

puts "| | one call | beside stat |\n|---|---|---|"
commands.each_key do |name|
  all = times[name]
  median = quartiles(all).first
  ratio, low, high = quartiles(all.zip(times["stat"]).map { |time, stat| time / stat }).map { |value| value.round(2) }
  puts "| #{name} | #{(median * 1000).round(2)} ms | #{ratio} (#{low} to #{high}) |"
end
