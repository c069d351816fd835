# frozen_string_literal: true

# The reader of a Sidekiq's output gets the same signal and ends first, or the logger raises. Ruby's own Logger does not
# raise, unless writing its warning to `$stderr` does.
RSpec.describe "a Sidekiq that is stopped and whose output fails" do
  # Bash dies from the signal as well; the Sidekiq lives on.
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

  it "pushes its jobs back if the reader of its pipe ends from the same signal" do
    worker = busy(**pipeline)
    Process.kill(:TERM, -worker.pid)
    expect_stopped(queued: 1)
    expect(problems_of(sidekiq)).to include(start_with("the reader of standard output exited before this process"))
  end

  it "pushes its jobs back if the reader has ended long before" do
    worker = busy(**pipeline)
    system("pkill", "-KILL", "-g", worker.pid.to_s, "-x", "cat", exception: true)
    Process.kill(:TERM, sidekiq)
    expect_stopped(queued: 1)
  end

  it "lets a job print while it drains, even if the reader ends meanwhile" do
    worker = start_ready(**pipeline, timeout: 60)
    push("Evaluate", 'note "begins"; sleep 0.01 until File.exist?("go"); puts "done"; note "ends"')
    wait_for_note("begins")
    Process.kill(:TERM, sidekiq)
    wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
    expect([1, 2].map { |number| output(number) }).to all(start_with("pipe:"))
    system("pkill", "-KILL", "-g", worker.pid.to_s, "-x", "cat", exception: true)
    wait_until("both are replaced") { [1, 2].all? { |number| output(number) == File::NULL } }
    release
    expect_stopped(queued: 0)
    expect(notes).to include("ends")
  end

  it "logs to the end to a reader that ignores the signal" do
    reader = %w[sh -c] + ["\"$@\" 2>&1 | (trap '' TERM INT; exec tee log)", "sh"]
    worker = busy(**pipeline, launcher: reader)
    Process.kill(:TERM, -worker.pid)
    expect_stopped(queued: 1)
    wait_until("the last line") { File.read(file("log")).include?("Bye!") }
    expect(problems_of(sidekiq)).not_to include(start_with("the reader of"))
  end

  it "does not change an output that is not a pipe" do
    worker = start_ready(timeout: 60)
    push("Evaluate", 'note "begins"; sleep 0.01 until File.exist?("go")')
    wait_for_note("begins")
    worker.signal(:TERM)
    wait_until("Sidekiq stops") { worker.log.include?("Pausing to allow") }
    expect([1, 2].map { |number| output(number) }).to all(eq(worker.log_file))
    release
    expect_stopped(queued: 0)
    expect(problems_of(sidekiq)).to be_empty
  end

  # Like a socket to a log collector that is gone, or a formatter with a bug.
  logger = <<~RUBY
    class Fails < Logger
      def add(...) = File.exist?("fails") ? raise("nobody takes this") : super
    end
    Sidekiq.configure_server { |config| config.logger = Fails.new($stdout) }
  RUBY

  %w[TERM INT].each do |signal|
    it "pushes its jobs back at #{signal} if its logger raises" do
      worker = busy(after: logger, timeout: 1)
      FileUtils.touch(file("fails"))
      worker.signal(signal)
      expect(worker.exit_code).to eq(0)
      expect_stopped(queued: 1)
    end
  end

  it "becomes quiet and drains if its logger raises" do
    worker = start_ready(after: logger, timeout: 60)
    push("Evaluate", 'note "begins"; sleep 0.01 until File.exist?("go"); note "ends"')
    wait_for_note("begins")
    FileUtils.touch(file("fails"))
    worker.signal(:TSTP)
    wait_until("it is quiet") { record(worker.pid)["timings"].key?("quiet") && record(worker.pid)["busy"] == 1 }
    release
    wait_until("drained") { File.exist?(drained_file) }
    expect([notes.last, retries]).to eq(["ends", 0])
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
  end
end
