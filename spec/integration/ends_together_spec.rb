# frozen_string_literal: true

# Foreman, honcho and similar programs end everything that they have started when one of their processes ends. The
# script here does the same, under foreman's name.
RSpec.describe "a Sidekiq that does not end alone" do
  foreman = <<~RUBY
    #!/usr/bin/env ruby
    pids = [spawn(*ARGV), spawn("sleep", "1000")]
    pids.delete(Process.wait)
    Process.kill(:TERM, *pids)
    Process.waitall
  RUBY

  it "is stopped after the command has named what ends with it, but quieted without that" do
    File.write(file("foreman"), foreman)
    File.chmod(0o755, file("foreman"))
    worker = start_ready(launcher: [file("foreman")])
    expect(command("quiet").last).to eq("sent SIGTSTP to process #{sidekiq}\n")
    expect(worker).to be_running
    said = command("stop")
    expect(said.first).to eq(0)
    expect(said.last).to start_with("foreman (pid #{worker.pid}) ends all of its processes when process #{sidekiq} " \
                                    "ends; quiet ends no process\n")
    expect(worker.exit_code).to eq(0)
  end

  it "is stopped without a notice if no other process ends" do
    worker = start_ready(launcher: ["bash", "-c", 'sleep 1000 & "$@"; true', "bash"])
    expect(command("stop").last).not_to include("end")
    worker.exit_code
  end
end
