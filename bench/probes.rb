# frozen_string_literal: true

# What one probe of a worker in a container costs the node: as `docker exec` of `check`, which is how a kubelet's exec
# probe works as well, and as an HTTP request. Called by bench/probes.
#
# It counts the processor time of the whole machine (/proc/stat), because most of an exec happens in the engine and the
# kernel. What the machine does without probes is measured in each round and subtracted. Nothing else should run.

require "etc"
require "net/http"
require "sidekiq"
require "sidekiq_lifecycle"
require "sidekiq_lifecycle/cli"
Dir["/repo/spec/support/*.rb"].each { |file| require file unless file.end_with?("parallel_runs.rb") }

ROUNDS = Integer(ARGV.fetch(0, "9"))
EXECS = 20
REQUESTS = 1000
TICKS = Etc.sysconf(Etc::SC_CLK_TCK).to_f

# Seconds of processor time since the boot, of all processors: user, nice, system, irq, softirq.
def busy = File.read("/proc/stat")[/^cpu +(.*)$/, 1].split.map(&:to_i).values_at(0, 1, 2, 5, 6).sum / TICKS

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

# [seconds of processor time, seconds] of the block.
def measure
  before = [busy, now]
  yield
  [busy - before[0], now - before[1]]
end

def quartiles(values)
  sorted = values.sort
  [0.5, 0.25, 0.75].map { |part| sorted[((sorted.size - 1) * part).round] }
end

port = RedisServer.free_port
ready = URI("http://127.0.0.1:#{port}/ready")
form = LaunchForm.all.find { |one| one.name == "sidekiq" }
LaunchedContainer.prepare
costs = { "exec" => [], "http" => [] }
LaunchedContainer.open(form, install: "lifecycle.http = #{port}") do |launch|
  probes = {
    "exec" => [EXECS, -> { launch.exec("sidekiq-lifecycle", "check") == [0, "ready\n"] || abort("check fails") }],
    "http" => [REQUESTS, -> { Net::HTTP.get(ready) == "ready\n" || abort("HTTP fails") }]
  }
  ROUNDS.times do
    idle, seconds = measure { sleep 3 }
    probes.keys.shuffle.each do |name|
      times, probe = probes[name]
      used, took = measure { times.times { probe.call } }
      costs[name] << ([used - (idle / seconds * took), 0].max / times * 1000)
    end
  end
end
RedisServer.stop_shared

puts "| | processor time of a probe |\n|---|---|"
costs.each do |name, all|
  median, low, high = quartiles(all).map { |cost| cost.round(2) }
  puts "| #{name} | #{median} ms (#{low} to #{high}) |"
end
