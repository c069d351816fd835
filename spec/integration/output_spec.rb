# frozen_string_literal: true

# Whoever reads a Sidekiq's output hears of the same signal, and ends first; or its logger raises. Ruby's own Logger
# does not raise, unless `$stderr` does, where it complains.
RSpec.describe "a Sidekiq that is stopped and whose output fails" do
  # Bash ends by the signal as well; the Sidekiq lives on.
  pipeline = { install: "lifecycle.signal_relay = :off", launcher: ["bash", "-c", '"$@" 2>&1 | cat', "bash"],
               before: "$stderr = $stdout", timeout: 1 }.freeze

  def output(number) = File.readlink("/proc/#{sidekiq}/fd/#{number}")

  def expect_stopped(queued:)
    wait_until("it has stopped") { record(sidekiq)["state"] == "stopped" }
    expect(record(sidekiq)).to include("exit_status" => 0)
    expect([self.queued, retries]).to eq([queued, 0])
  end

  # One thread: an idle one might take the job that is pushed back.
  def busy(**options)
    worker = start_ready(**options, concurrency: 1)
    push("Sleep", 300)
    wait_for_note("sleep begins")
    worker
  end

  it "pushes its jobs back when the reader of its pipe ends by the same signal" do
    worker = busy(**pipeline)
    Process.kill(:TERM, -worker.pid)
    expect_stopped(queued: 1)
    expect(problems_of(sidekiq)).to include(start_with("the reader of standard output exited before this process"))
  end

  it "pushes its jobs back when the reader has ended long before" do
    worker = busy(**pipeline)
    system("pkill", "-KILL", "-g", worker.pid.to_s, "-x", "cat", exception: true)
    Process.kill(:TERM, sidekiq)
    expect_stopped(queued: 1)
  end

  it "lets a job print while it drains, when the reader ends in the midst of that" do
    worker = start_ready(**pipeline, timeout: 60)
    push("Evaluate", 'note "begins"; sleep 0.01 until File.exist?("go"); puts "done"; note "ends"')
    wait_for_note("begins")
    Process.kill(:TERM, sidekiq)
    wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
    expect([1, 2].map { |number| output(number) }).to all(start_with("pipe:"))
    system("pkill", "-KILL", "-g", worker.pid.to_s, "-x", "cat", exception: true)
    wait_until("both are replaced") { [1, 2].all? { |number| output(number) == File::NULL } }
    FileUtils.touch(file("go"))
    expect_stopped(queued: 0)
    expect(notes).to include("ends")
  end

  it "is heard to its end by a reader that ignores the signal" do
    reader = %w[sh -c] + ["\"$@\" 2>&1 | (trap '' TERM INT; exec tee log)", "sh"]
    worker = busy(**pipeline, launcher: reader)
    Process.kill(:TERM, -worker.pid)
    expect_stopped(queued: 1)
    wait_until("the last word") { File.read(file("log")).include?("Bye!") }
    expect(problems_of(sidekiq)).not_to include(start_with("the reader of"))
  end

  it "leaves an output alone that is no pipe" do
    worker = start_ready(timeout: 60)
    push("Evaluate", 'note "begins"; sleep 0.01 until File.exist?("go")')
    wait_for_note("begins")
    worker.signal(:TERM)
    wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
    expect([1, 2].map { |number| output(number) }).to all(eq(worker.log_file))
    FileUtils.touch(file("go"))
    expect_stopped(queued: 0)
    expect(problems_of(sidekiq)).to be_empty
  end

  # A socket to a log collector that is gone, a formatter with a bug.
  logger = <<~RUBY
    class Fails < Logger
      def add(...) = File.exist?("fails") ? raise("nobody takes this") : super
    end
    Sidekiq.configure_server { |config| config.logger = Fails.new($stdout) }
  RUBY

  %w[TERM INT].each do |signal|
    it "pushes its jobs back at a #{signal} when its logger raises" do
      worker = busy(after: logger, timeout: 1)
      FileUtils.touch(file("fails"))
      worker.signal(signal)
      expect(worker.exit_code).to eq(0)
      expect_stopped(queued: 1)
    end
  end

  it "becomes quiet, and goes on, when its logger raises" do
    worker = start_ready(after: logger, timeout: 60)
    push("Evaluate", 'note "begins"; sleep 0.01 until File.exist?("go"); note "ends"')
    wait_for_note("begins")
    FileUtils.touch(file("fails"))
    worker.signal(:TSTP)
    wait_until("it is quiet") { record(worker.pid)["timings"].key?("quiet") && record(worker.pid)["busy"] == 1 }
    FileUtils.touch(file("go"))
    wait_until("drained") { File.exist?(drained_file) }
    expect([notes.last, retries]).to eq(["ends", 0])
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
  end
end
