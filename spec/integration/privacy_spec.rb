# frozen_string_literal: true

RSpec.describe "a secret" do
  secret = "hunter2"

  def everything_written
    files = Dir[file("tmp/sidekiq/**/*")].select { |path| File.file?(path) }.to_h { |path| [path, File.read(path)] }
    keys = redis.call("KEYS", "*:lifecycle", database: @database)
    keys.each { |key| files[key] = redis.call("GET", key, database: @database) }
    files
  end

  it "in the command line of a shell that loses signals is in no log, record or key in Redis" do
    url = redis.url(@database).sub("://", "://:#{secret}@")
    line = "SOME_TOKEN=#{secret} SIDEKIQ_LIFECYCLE_SIGNAL_RELAY=off REDIS_URL=#{url} \"$@\"; true"
    launcher = %w[unshare --pid --fork --kill-child --mount-proc dash -c] + [line, "dash"]
    worker = start_ready(launcher:)
    problem = /a SIGTERM sent to dash \(pid 1\) is lost.*exec before the command that starts Sidekiq in `dash -c '…'`/
    expect(worker.log).to match(problem)
    shown = command("status").last
    expect(shown).to match(problem)
    wait_until("it is announced") { everything_written.keys.grep(/:lifecycle/).any? }
    expect(everything_written.values.join + worker.log + shown).not_to include(secret)
    outside = File.read("/proc/#{worker.pid}/task/#{worker.pid}/children").to_i
    entered = ["nsenter", "-t", outside.to_s, "-p", "-m", "-r"]
    expect(Open3.capture2e(*entered, Sandbox::COMMAND, "doctor", "--dir", file("tmp/sidekiq")).first)
      .to include("SOME_TOKEN=[hidden]").and include("; true").and exclude(secret)
    expect(Open3.capture2e(*entered, Sandbox::COMMAND, "doctor", "--json", "--dir", file("tmp/sidekiq")).first)
      .to include("SOME_TOKEN=[hidden]").and exclude(secret)
  end

  it "in an error that ends the process, or that a hook raises, is hidden" do
    worker = start(install: "SidekiqLifecycle.on(:running) { raise 'token=#{secret}' }",
                   after: "SidekiqLifecycle.on(:quiet) { raise \"no redis://:#{secret}@h/0\" }")
    await_ready(worker)
    worker.signal(:TERM)
    worker.exit_code
    expect(worker.log).to include("on(:running): RuntimeError: token=[hidden]")
      .and include("on(:quiet): RuntimeError: no redis://[hidden]@h/0")
    failed = start(name: "failed", after: "raise \"cannot reach redis://u:#{secret}@h: PASSWORD=#{secret}\"")
    expect(failed.exit_code).to eq(1)
    expect(record(failed.pid)["why"]).to eq("RuntimeError: cannot reach redis://[hidden]@h: PASSWORD=[hidden]")
    expect(everything_written.values.join + command("status").last).not_to include(secret)
  end

  RSpec::Matchers.define(:exclude) { |text| match { |whole| !whole.include?(text) } }
end
