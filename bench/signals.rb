# frozen_string_literal: true

# What `run` and the relay cost beside tini, dumb-init and catatonit, in each way to link them. Called by bench/signals.
#
# Each round measures every one of them, in an order of its own: as PID 1 of a new PID namespace, and as a subreaper
# beside IDLE_PROCESSES idle processes. Times are told as ratios to tini's of the same round, medians and the middle
# half. The start of an init is that of `init -- true`, from beginning to end; the start of the relay is how long a
# booting Sidekiq waits for it.

require "fiddle"

ROUNDS = Integer(ARGV.fetch(0, "50"))
IDLE = 5
IDLE_PROCESSES = 500
LINKED = Dir["/build/linked/*"].to_h { |path| [File.basename(path).tr("-", " "), path] }
INITS = { "tini" => %w[tini -s --], "dumb-init" => %w[dumb-init], "catatonit" => %w[catatonit --],
          **LINKED.to_h { |name, path| ["run, #{name}", [path, "run", "--"]] } }.freeze
# A worker that ends when it hears TERM; the other asks for a relay first, as the gem does.
READY = 'trap("TERM") { exit! }; $stdout.syswrite("up"); sleep'
WORKER = ["ruby", "--disable=gems", "-e", READY].freeze

def ask(command)
  "start = File.read('/proc/self/stat')[/.*\\)(.*)/, 1].split[19]; began = Process.clock_gettime(1); " \
    "said = IO.popen([[#{command.inspect}, 'signal-relay'], $$.to_s, start, '30', 'start'], &:read); " \
    "$stdout.syswrite(said + ' took ' + (Process.clock_gettime(1) - began).to_s + ' ');"
end

def relayed(command) = ["ruby", "--disable=gems", "-e", ask(command) + READY]

RELAYS = LINKED.to_h do |name, path|
  ["the relay, #{name}", ["dash", "-c", '"$@"; exit 0', "dash", *relayed(path)]]
end.freeze
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

def stop(pid, reader, told = pid)
  Process.kill(:TERM, told)
  Process.wait(pid)
  reader.close
end

# ---- as PID 1 of a new PID namespace ----

UNSHARE = Fiddle::Function.new(Fiddle::Handle::DEFAULT["unshare"], [Fiddle::TYPE_INT], Fiddle::TYPE_INT)
CLONE_NEWPID = 0x20000000
NAMESPACE = %w[unshare --pid --fork --mount-proc --kill-child].freeze

# The time of unshare(1) is not in it: a process takes its next child there, and measures that.
def start_as_first(init)
  IO.popen("-") do |output|
    next Float(output.read) if output

    UNSHARE.call(CLONE_NEWPID).zero? || abort("no PID namespace can be made here")
    $stdout.syswrite(timed { system(*init, "true") }.to_s)
    exit!
  end
end

def end_as_first(init)
  pid, reader, = start([*NAMESPACE, *init, *WORKER])
  first = Integer(File.read("/proc/#{pid}/task/#{pid}/children"))
  sleep 0.05
  timed { stop(pid, reader, first) || true }
end

# ---- beside others ----

def end_beside(command)
  pid, reader, said = start(command)
  sleep 0.05
  [timed { stop(pid, reader) || true }, said[/took (\S+)/, 1]&.to_f]
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

resting = { **INITS.transform_values { |init| [*init, *WORKER] }, **RELAYS }.to_h do |name, command|
  pid, reader, said = start(command)
  [name, rest(said[/"pid":(\d+)/, 1]&.to_i || pid).tap { stop(pid, reader) }]
end

idle = Array.new(IDLE_PROCESSES) { spawn("sleep", "infinity") }
at_exit { idle.each { |pid| Process.kill(:KILL, pid) } }

# By what is measured, and by name.
times = Hash.new { |hash, what| hash[what] = Hash.new { |all, name| all[name] = [] } }
ROUNDS.times do
  INITS.to_a.shuffle.each do |name, init|
    times[:start_as_first][name] << start_as_first(init)
    times[:start][name] << timed { system(*init, "true") }
    times[:end_as_first][name] << end_as_first(init)
    times[:end][name] << end_beside([*init, *WORKER]).first
  end
  RELAYS.to_a.shuffle.each do |name, command|
    ended, took = end_beside(command)
    times[:end][name] << ended
    times[:start][name] << took
  end
end

puts "| | private memory | wake-ups in #{IDLE} idle s | start as PID 1 | start beside #{IDLE_PROCESSES} processes " \
     "| TERM to the end as PID 1 | TERM to the end beside #{IDLE_PROCESSES} |", "|---|---|---|---|---|---|---|"
resting.each do |name, (memory, wakes)|
  ratios = %i[start_as_first start end_as_first end].map do |what|
    times[what].key?(name) ? ratio(times[what][name], times[what]["tini"]) : "–"
  end
  puts "| #{name} | #{memory} KiB | #{wakes} | #{ratios.join(" | ")} |"
end

untraced, traced = Array.new([ROUNDS, 15].min) do
  [loop_time(*WORKER), loop_time(*relayed(LINKED.fetch("static musl")))]
end.transpose
costs = traced.zip(untraced).map { |with, without| (with - without) * 1_000_000 / COMMANDS }
puts "", "A traced shell takes #{ratio(traced, untraced)} times as long to start a command, " \
         "#{quartiles(costs).first.round} µs more each."
