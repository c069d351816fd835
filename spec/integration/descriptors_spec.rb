# frozen_string_literal: true

RSpec.describe "a Sidekiq that has used up its descriptors" do
  # Nothing can be opened any more, not even a file for notes, so the job prints to standard output.
  leak = lambda do |on_and_on|
    <<~RUBY
      at_the_limit = false
      Thread.new do
        $leaked = []
        loop do
          $leaked << File.open(File::NULL)
        rescue SystemCallError
          at_the_limit = true
          sleep(*#{on_and_on ? [0.05] : []})
        end
      end
      sleep 0.01 until at_the_limit
      $stdout.syswrite("all used up\n")
    RUBY
  end

  # The kernel before 5.9, and Docker's seccomp filter there.
  refuse = ->(*calls) { %W[strace -D -f -qq -o /dev/null -e inject=#{calls.join(",")}:error=EPERM] }
  limited = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]
  cases = {
    "" => [limited, leak[true]],
    ", on a kernel without close_range" => [refuse["close_range"] + limited, leak[true]],
    ", where no thread can have descriptors of its own" => [refuse["close_range", "unshare"] + limited, leak[false]]
  }

  def use_up(worker)
    wait_until("the descriptors are used up") { worker.log.include?("all used up") || worker.raise_if_ended }
  end

  def ended_well(worker)
    expect(worker.exit_code).to eq(0)
    expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0)
    expect(check).to eq([1, "not ready: process #{worker.pid} has stopped (exit 0, SIGTERM)\n"])
  end

  cases.each do |where, (launcher, leaking)|
    it "is no longer ready after TSTP, drains, and stops#{where}" do
      worker = start_ready(launcher: launcher)
      push("Evaluate", leaking)
      use_up(worker)
      worker.signal(:TSTP)
      wait_until("no longer ready") { !worker.ready_file? }
      wait_until("drained") { File.exist?(drained_file) }
      expect(check).to eq([1, "not ready: process #{worker.pid} is quiet\n"])
      worker.signal(:TERM)
      ended_well(worker)
    end

    it "is no longer ready after TERM, also with another ready file#{where}" do
      started = file("run/started")
      install = 'lifecycle.ready_file = "run/started"'
      worker = start(launcher: launcher, install:)
      wait_until("ready") { File.exist?(started) || worker.raise_if_ended }
      push("Evaluate", "#{leaking}; sleep 0.01 while File.exist?('run/started')")
      use_up(worker)
      worker.signal(:TERM)
      wait_until("no longer ready") { !File.exist?(started) }
      ended_well(worker)
    end
  end
end
