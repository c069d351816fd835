# frozen_string_literal: true

RSpec.describe "installing" do
  def install(block) = "Sidekiq.configure_server { |config| SidekiqLifecycle.install(config) #{block} }\n"

  it "twice has the effect of once, and the last setting wins" do
    worker = start(install: "lifecycle.stop_timeout = 30", after: <<~RUBY)
      #{install("{ |lifecycle| lifecycle.directory = 'life/first' }")}
      #{install("{ |lifecycle| lifecycle.directory = 'life/second'; lifecycle.ready_file = 'pids/started' }")}
      #{install("")}
      SidekiqLifecycle::EVENTS.each { |event| SidekiqLifecycle.on(event) { note "\#{event}" } }
    RUBY
    wait_until("ready") { File.exist?(file("pids/started")) || worker.raise_if_ended }
    expect(Dir.glob("{tmp,life}/**/*", base: app).grep_v(/first$|sidekiq$|processes$/))
      .to contain_exactly("life/second", "life/second/processes/#{worker.pid}")
    expect(JSON.parse(File.read(file("life/second/processes", worker.pid.to_s)))).to include("stop_timeout" => 30.0)
    worker.signal(:TSTP)
    # Listeners run after the file was written. A TERM in between would be reported by another thread.
    wait_until("drained") { File.exist?(file("life/second/drained")) && notes.last == "drained" }
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(notes).to eq(%w[running quiet drained stopping stopped])
    expect(Dir.glob("**/{ready,started,drained}", base: app)).to be_empty
  end

  it "takes the directory from the environment" do
    worker = start(environment: { "SIDEKIQ_LIFECYCLE_DIR" => file("of/environment") })
    wait_until("ready") { check("ready", "--dir", file("of/environment")).first.zero? || worker.raise_if_ended }
    expect(File).not_to exist(file("tmp"))
    expect(record(worker.pid)).to be_nil
  end

  it "with another directory after Sidekiq has started is too late, and is logged" do
    worker = start_ready
    push("Evaluate", <<~RUBY)
      #{install("{ |lifecycle| lifecycle.directory = 'life' }")}
      note "installed"
    RUBY
    wait_until("the job ends") { notes.include?("installed") }
    expect(worker.log).to include("install cannot set another directory or ready_file now: Sidekiq has started")
    expect(File).not_to exist(file("life"))
    expect(check).to eq([0, "ready\n"])
  end

  {
    "lifecycle.directory = nil" => "directory is nil; set it to a path, such as \"tmp/sidekiq\"",
    "lifecycle.ready_file = 7" => "ready_file is 7; set it to a path, such as \"tmp/sidekiq\"",
    "lifecycle.http = 'localhost'" => "http is \"localhost\"; set it to a port from 1 to 65535, or to an IP address",
    "lifecycle.stop_timeout = '30'" => "stop_timeout is \"30\"; set it to a number of seconds above 0, such as 30"
  }.each do |setting, sentence|
    it "ends the boot with a clear error for #{setting}" do
      worker = start(install: setting)
      expect(worker.exit_code).to eq(1)
      expect(worker.log.lines.grep(/sidekiq_lifecycle|#{Regexp.escape(sentence)}/).first).to include(sentence)
      expect(File).not_to exist(file("tmp"))
    end
  end
end
