# frozen_string_literal: true

require "open3"
require "rbconfig"

RSpec.describe "SidekiqLifecycle::Native::ProgressBar" do
  # Closing waits without the GVL. If it held a lock meanwhile, the printing thread would wait for it with the GVL.
  it "can be closed while another thread prints" do
    script = <<~RUBY
      require "sidekiq_lifecycle"
      50.times do
        bar = SidekiqLifecycle::Native::ProgressBar.new
        threads = Array.new(2) { Thread.new { 20.times { bar.print("line") } } }
        bar.close
        threads.each(&:join)
      end
      puts "closed"
    RUBY
    # A Ruby in that deadlock handles no SIGTERM.
    ruby = ["timeout", "--signal=KILL", "120", RbConfig.ruby]
    out, = Open3.capture2(*ruby, "-I", $LOAD_PATH.join(":"), "-e", script, err: File::NULL)
    expect(out).to eq("closed\n")
  end
end
