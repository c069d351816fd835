# frozen_string_literal: true

RSpec.describe "the lifecycle of a Sidekiq" do
  it "shows in files, in the command and in Ruby, from boot to exit" do
    worker = start(before: 'sleep 0.01 until File.exist?("boot")', after: <<~RUBY)
      SidekiqLifecycle::EVENTS.each { |event| SidekiqLifecycle.on(event) { |status| note "on \#{event} \#{status.state}" } }
    RUBY
    expect(check).to eq([1, "not ready: #{file("tmp/sidekiq")} does not exist: no Sidekiq has registered there\n"])
    release("boot")
    wait_until("it registers") { record(worker.pid) || worker.raise_if_ended }
    await_ready(worker)
    expect(check).to eq([0, "ready\n"])
    expect(check("live")).to eq([0, "live\n"])
    expect(check("drained")).to eq([1, "not drained: process #{worker.pid} is running and has not been quieted\n"])

    start_job
    worker.signal(:TSTP)
    await_state(worker, "quiet")
    expect(check).to eq([1, "not ready: process #{worker.pid} is quiet\n"])
    expect(worker).not_to be_ready_file
    expect(check("live").first).to eq(0)
    expect(check("drained").first).to eq(1)
    expect(File).not_to exist(drained_file)

    release
    await_drained(worker)
    expect(notes).to include("job ends")
    expect(check("drained")).to eq([0, "drained\n"])
    wait_until("the listener gets it") { notes.include?("on drained quiet") }

    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(check).to eq([1, "not ready: process #{worker.pid} has stopped (exit 0, SIGTERM)\n"])
    expect(Dir.children(file("tmp/sidekiq"))).to eq(["processes"])
    expect(notes.grep(/^on /)).to eq(["on running running", "on quiet quiet", "on drained quiet",
                                      "on stopping stopping", "on stopped stopped"])
    expect(record(worker.pid)["timings"].keys).to match_array(%w[booting running quiet drained stopping stopped])
  end
end
