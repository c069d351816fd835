# frozen_string_literal: true

require "open3"
require "rbconfig"

RSpec.describe SidekiqLifecycle::Native do
  # Runs code in a process of its own: [standard output, standard error, exit status].
  def ruby(code)
    load_path = $LOAD_PATH.flat_map { |directory| ["-I", directory] }
    output, errors, status = Open3.capture3(RbConfig.ruby, *load_path, "-r", "sidekiq_lifecycle", "-e", code)
    [output, errors, status.exitstatus]
  end

  describe SidekiqLifecycle::Native::ProgressBar do
    it "prints each message once where there is no terminal, and lines that stay" do
      _, errors, code = ruby(<<~RUBY)
        bar = SidekiqLifecycle::Native::ProgressBar.new
        2.times { |time| bar.show(1, 2, "1 of 2 drained", ["a job"], [10.0, nil][time], 1.0 + time) }
        bar.print("worker-3 does not answer")
        2.times { bar.close }
        bar.show(2, 2, "2 of 2 drained", [], nil, 3.0)
      RUBY
      expect([errors, code]).to eq(["1 of 2 drained\nworker-3 does not answer\n", 0])
    end

    it "is closed when the process exits, and takes no signals" do
      _, errors, code = ruby(<<~RUBY)
        bar = SidekiqLifecycle::Native::ProgressBar.new
        bar.show(0, 2, "0 of 2 drained", [], nil, 0.0)
        trap("USR1") { puts "handled" }
        20.times { Process.kill(:USR1, Process.pid) }
      RUBY
      expect([errors, code]).to eq(["0 of 2 drained\n", 0])
    end
  end

  describe ".parse_pattern" do
    it "takes a pattern apart, and says what is wrong with one" do
      expect(described_class.parse_pattern("tag=shop,worker-*")).to eq([%w[tag shop], [nil, "worker-*"]])
      expect { described_class.parse_pattern("colour=red") }
        .to raise_error(SidekiqLifecycle::Error, /\Athere is no field colour; use one of hostname, /)
    end

    it "knows the fields that Ruby compares with" do
      expect(SidekiqLifecycle::Fleet::Selection::FIELDS.keys).to eq(described_class::PATTERN_FIELDS)
    end
  end
end
