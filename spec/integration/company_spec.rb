# frozen_string_literal: true

# Foreman, honcho and the like end all that they have started when one of it has ended. The one here does that, and goes
# by the same name.
RSpec.describe "a Sidekiq that does not end alone" do
  foreman = <<~RUBY
    #!/usr/bin/env ruby
    pids = [spawn(*ARGV), spawn("sleep", "1000")]
    pids.delete(Process.wait)
    Process.kill(:TERM, *pids)
    Process.waitall
  RUBY

  it "is stopped after it was said who ends with it, and is quieted without a word" do
    File.write(file("foreman"), foreman)
    File.chmod(0o755, file("foreman"))
    worker = start_ready(launcher: [file("foreman")])
    expect(command("quiet").last).to eq("sent SIGTSTP to process #{sidekiq}\n")
    expect(worker).to be_running
    said = command("stop")
    expect(said.first).to eq(0)
    expect(said.last).to start_with("foreman (pid #{worker.pid}) ends all of its processes when process #{sidekiq} " \
                                    "ends; quiet ends nobody\n")
    expect(worker.exit_code).to eq(0)
  end

  it "is stopped without a word where nobody else ends" do
    worker = start_ready(launcher: ["bash", "-c", 'sleep 1000 & "$@"; true', "bash"])
    expect(command("stop").last).not_to include("end")
    worker.exit_code
  end
end
