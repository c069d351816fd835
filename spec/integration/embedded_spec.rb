# frozen_string_literal: true

RSpec.describe "embedded in another program" do
  if Sandbox::MAJOR == 6
    it "is not possible with Sidekiq 6" do
      expect(Sidekiq).not_to respond_to(:configure_embed)
    end
  else
    # Starts a program that evaluates what it reads, and notes the result.
    def start_host(*arguments)
      File.write(file("host.rb"), <<~RUBY)
        require "sidekiq"
        require "sidekiq_lifecycle"
        #{Worker::JOBS}
        trap("TERM") { note "the host's TERM" }
        SidekiqLifecycle::EVENTS.each { |event| SidekiqLifecycle.on(event) { |status| note "on \#{event} \#{status.state}" } }
        Sidekiq.configure_server { |config| SidekiqLifecycle.install(config) }
        instance = Sidekiq.configure_embed do |config|
          config.redis = { url: #{redis.url(@database).inspect} }
          config.concurrency = 1
          SidekiqLifecycle.install(config) do |lifecycle|
            lifecycle.stop_timeout = 30
            lifecycle.recover_jobs = true
          end
        end
        while (line = $stdin.gets)
          note(">" + eval(line, binding).inspect)
        end
      RUBY
      input, @input = IO.pipe
      start_program(RbConfig.ruby, *arguments, "./host.rb", in: input).tap { input.close }
    end

    def recorders = Dir[file("tmp/sidekiq/recorders/*-*")]

    # @return [String] the result in the host program, inspected
    def ask(host, code)
      answers = notes.grep(/^>/).size
      @input.puts(code)
      wait_until("the host does #{code}") { notes.grep(/^>/).size > answers || host.raise_if_ended }
      notes.grep(/^>/).last.delete_prefix(">")
    end

    it "reports Sidekiq's lifecycle, which starts and ends while the program keeps running" do
      host = start_host
      expect(ask(host, "[SidekiqLifecycle.status, SidekiqLifecycle.ready?]")).to eq("[nil, false]")
      expect(Dir.exist?(file("tmp"))).to be(false)

      ask(host, "instance.run; nil")
      await_ready(host)
      expect(check).to eq([0, "ready\n"])
      expect(record(host.pid)).to include("state" => "running", "embedded" => true, "concurrency" => 1,
                                          "stop_timeout" => 30.0)
      expect(ask(host, "s = SidekiqLifecycle.status; [s.state, s.ready?, s.embedded?]")).to eq("[:running, true, true]")

      push("Evaluate", %(note "begins"; sleep 0.05 until File.exist?("go"); note "ends"))
      wait_until("the job begins") { notes.include?("begins") }
      ask(host, "instance.quiet; nil")
      await_state(host, "quiet")
      wait_until("it names its job") { check("drained").last.match?(still_running(host, "quiet").last) }
      expect(File).not_to exist(ready_file)
      expect(check("live").first).to eq(0)
      expect(check("drained")).to match(still_running(host, "quiet"))
      expect(File).not_to exist(drained_file)

      release
      await_drained(host)
      expect(notes).to include("ends")

      wait_until("the listener gets it") { notes.include?("on drained quiet") }
      ask(host, "instance.stop; nil")
      await_state(host, "stopped")
      expect(record(host.pid)).to include("state" => "stopped", "exit_status" => nil, "why" => "stop was called")
      expect(check("live")).to eq([1, "not live: process #{host.pid} has stopped (stop was called)\n"])
      wait_until("the recorder is gone") { recorders.empty? }
      expect(Dir.children(file("tmp/sidekiq"))).to contain_exactly("processes", "recorders")
      expect(ask(host, "[SidekiqLifecycle.status.state, SidekiqLifecycle.ready?]")).to eq("[:stopped, false]")

      @input.close
      expect(host.exit_code).to eq(0)
      expect(notes.grep(/^on /)).to eq(["on running running", "on quiet quiet", "on drained quiet",
                                        "on stopping stopping", "on stopped stopped"])
      expect(record(host.pid)).to include("state" => "stopped", "exit_status" => nil)
    end

    [[], %w[-r sidekiq/cli]].each do |arguments|
      it "leaves the program's own signals alone#{", which has loaded sidekiq/cli as well" if arguments.any?}" do
        host = start_host(*arguments)
        handlers = -> { File.read("/proc/#{host.pid}/status")[/^SigCgt:\s*(\h+)/, 1] }
        ask(host, "0")
        before = handlers.call
        ask(host, "instance.run; nil")
        await_ready(host)
        expect(handlers.call).to eq(before)
        host.signal(:TERM)
        wait_until("the host's own trap runs") { notes.include?("the host's TERM") }
        ask(host, "0")
        expect(check).to eq([0, "ready\n"])
        expect(record(host.pid)).to include("state" => "running", "why" => nil, "embedded" => true)
      end
    end

    it "is recorded as ended when the program ends without stopping it" do
      host = start_host
      ask(host, "instance.run; nil")
      @input.puts("exit 3")
      expect(host.exit_code).to eq(3)
      expect(File).not_to exist(ready_file)
      expect(check).to eq([1, "not ready: process #{host.pid} has stopped (exit 3)\n"])
      expect(notes.grep(/^on /)).to eq(["on running running", "on stopped stopped"])
    end

    it "is gone when the program is killed, and the next one puts its job back" do
      host = start_host
      ask(host, "instance.run; nil")
      start_job
      host.signal(:KILL)
      host.exit_code
      expect(check).to eq([1, "not ready: process #{host.pid} is gone\n"])
      host = start_host
      ask(host, "instance.run; nil")
      wait_until("the job again") { notes.count("job begins") == 2 }
      release
      wait_for_note("job ends")
      ask(host, "instance.stop; nil")
      wait_until("the recorder is gone") { recorders.empty? }
      expect(Dir.children(file("tmp/sidekiq"))).to contain_exactly("processes", "recorders")
    end
  end
end
