# frozen_string_literal: true

# What `run` and the relay cost beside tini, dumb-init and catatonit. Called by bench/signals.
#
# Each round measures every one of them, one after the other; times are told as ratios to tini's of the same round,
# medians and the middle half. The start of an init is that of `init -- true`, from beginning to end; the start of the
# relay is how long a booting Sidekiq waits for it.

require "sidekiq_lifecycle/cli"

ROUNDS = Integer(ARGV.fetch(0, "15"))
IDLE = 5
COMMAND = SidekiqLifecycle::CLI.path
INITS = { "tini" => %w[tini -s --], "dumb-init" => %w[dumb-init], "catatonit" => %w[catatonit --],
          "run" => [COMMAND, "run", "--"] }.freeze
# A worker that ends when it hears TERM; the other asks for a relay first, as the gem does.
READY = 'trap("TERM") { exit! }; $stdout.syswrite("up"); sleep'
WORKER = ["ruby", "--disable=gems", "-e", READY].freeze
ASK = "start = File.read('/proc/self/stat')[/.*\\)(.*)/, 1].split[19]; began = Process.clock_gettime(1); " \
      "said = IO.popen([[#{COMMAND.inspect}, 'signal-relay'], $$.to_s, start, '30', 'start'], &:read); " \
      "$stdout.syswrite(said + ' took ' + (Process.clock_gettime(1) - began).to_s + ' ');".freeze
# A shell that starts so many commands while its worker runs.
COMMANDS = 500
LOOP = <<~SH.freeze
  "$@" &
  read go
  n=#{COMMANDS}
  while [ $n -gt 0 ]; do /bin/true; n=$((n-1)); done
  echo done
  kill $!
  wait
SH
RELAYED = ["dash", "-c", '"$@"; exit 0', "dash", "ruby", "--disable=gems", "-e", ASK + READY].freeze

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
def timed = now.then { |start| yield && (now - start) }

# Starts a command whose worker says "up".
def start(command)
  reader, writer = IO.pipe
  pid = spawn(*command, in: File::NULL, out: writer, pgroup: true)
  writer.close
  said = +""
  said << reader.readpartial(100) until said.include?("up")
  [pid, reader, said]
end

def stop(pid, reader)
  Process.kill(:TERM, pid)
  Process.wait(pid)
  reader.close
end

def wake_ups(pid) = File.read("/proc/#{pid}/status").scan(/ctxt_switches:\s*(\d+)/).flatten.sum(&:to_i)
def private_memory(pid) = File.read("/proc/#{pid}/smaps_rollup")[/^Anonymous:\s*(\d+)/, 1].to_i

# The resting costs of a process: private memory in KiB, and how often it woke up in IDLE seconds.
def rest(pid)
  sleep 0.5
  before = wake_ups(pid)
  sleep IDLE
  [private_memory(pid), wake_ups(pid) - before]
end

def quartiles(values)
  sorted = values.sort
  [0.5, 0.25, 0.75].map { |part| sorted[((sorted.size - 1) * part).round] }
end

def ratio(values, base)
  median, low, high = quartiles(values.zip(base).map { |value, of| value / of }).map { |ratio| ratio.round(2) }
  "#{median} (#{low} to #{high})"
end

# Seconds that a shell takes for COMMANDS commands.
def loop_time(*worker)
  go, writer = IO.pipe
  reader, out = IO.pipe
  pid = spawn("dash", "-c", LOOP, "dash", *worker, in: go, out:)
  [go, out].each(&:close)
  said = +""
  said << reader.readpartial(100) until said.include?("up")
  timed do
    writer.puts("go")
    said << reader.readpartial(100) until said.include?("done")
    true
  end
ensure
  Process.wait(pid)
  [writer, reader].each(&:close)
end

resting = INITS.to_h do |name, init|
  pid, reader, = start([*init, *WORKER])
  rest(pid).tap { stop(pid, reader) }.then { |costs| [name, costs] }
end
pid, reader, said = start(RELAYED)
resting["the relay"] = rest(said[/"pid":(\d+)/, 1].to_i)
stop(pid, reader)

starts = Hash.new { |hash, name| hash[name] = [] }
ends = Hash.new { |hash, name| hash[name] = [] }
traced = []
untraced = []
ROUNDS.times do
  untraced << loop_time(*WORKER)
  traced << loop_time("ruby", "--disable=gems", "-e", ASK + READY)
  { **INITS.transform_values { |init| [*init, *WORKER] }, "the relay" => RELAYED }.each do |name, command|
    pid, reader, said = start(command)
    starts[name] << (said[/took (\S+)/, 1]&.to_f || timed { system(*INITS[name], "true") })
    sleep 0.05
    ends[name] << timed { stop(pid, reader) || true }
  end
end

puts "| | private memory | wake-ups in #{IDLE} idle s | start, to tini's | TERM to the end, to tini's |"
puts "|---|---|---|---|---|"
resting.each do |name, (memory, wakes)|
  times = [starts, ends].map { |measured| ratio(measured[name], measured["tini"]) }
  puts "| #{name} | #{memory} KiB | #{wakes} | #{times.join(" | ")} |"
end

costs = traced.zip(untraced).map { |with, without| (with - without) * 1_000_000 / COMMANDS }
puts "", "A traced shell takes #{ratio(traced, untraced)} times as long to start a command, " \
         "#{quartiles(costs).first.round} µs more each."
