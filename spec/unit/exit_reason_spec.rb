# frozen_string_literal: true

require "open3"
require "rbconfig"

RSpec.describe SidekiqLifecycle::ExitReason do
  # Ends a real Ruby process, and compares what at_exit read from it with what its parent saw.
  def ending(code)
    script = <<~RUBY
      require "json"
      require "sidekiq_lifecycle"
      %w[HUP INT TERM].each { |signal| trap(signal, "DEFAULT") } # nohup, for one, has had HUP ignored
      at_exit { puts JSON.generate(SidekiqLifecycle::ExitReason.of($!)) }
      #{code}
    RUBY
    load_path = $LOAD_PATH.flat_map { |directory| ["-I", directory] }
    output, _, status = Open3.capture3(RbConfig.ruby, *load_path, "-e", script)
    told, why = JSON.parse(output)
    expect(told).to eq(status.exitstatus || (128 + status.termsig))
    [told, why]
  end

  [
    ["1", 0, nil],
    ["exit", 0, nil],
    ["exit 7", 7, nil],
    ["begin; raise IOError, %(no\nRedis); rescue => e; exit 1; end", 1, "IOError: no"],
    ["begin; raise IOError, %(gone); rescue => e; exit 0; end", 0, nil],
    ["abort 'sorry'", 1, nil],
    ["raise ArgumentError, 'wrong'", 1, "ArgumentError: wrong"],
    ["raise NotImplementedError, 'later'", 1, "NotImplementedError: later"],
    ["Process.kill(:TERM, Process.pid); sleep", 143, "SIGTERM"],
    ["Process.kill(:INT, Process.pid); sleep", 130, "SIGINT"],
    ["begin; Process.kill(:TERM, Process.pid); sleep; rescue SignalException; exit 143; end", 143, "SIGTERM"],
    ["Process.kill(:HUP, Process.pid); sleep", 129, "SIGHUP"]
  ].each do |code, status, why|
    it "is #{[status, why].compact.join(", ")} after #{code.inspect}" do
      expect(ending(code)).to eq([status, why])
    end
  end
end
