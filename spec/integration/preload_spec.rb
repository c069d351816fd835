# frozen_string_literal: true

RSpec.describe "preloaded, then forked" do
  # Like sidekiqswarm: the parent loads the application, forks, forwards signals, and replaces a child that died.
  def start_swarm(size, launcher: [], install: "")
    File.write(file("application.rb"), <<~RUBY)
      require "sidekiq_lifecycle"
      Sidekiq.configure_server do |config|
        config.redis = { url: #{redis.url(@database).inspect} }
        SidekiqLifecycle.install(config) { |lifecycle| #{install} }
      end
      #{Worker::JOBS}
    RUBY
    File.write(file("swarm.rb"), <<~RUBY)
      require "sidekiq/cli"
      Sidekiq::CLI.instance.parse(["-r", "./application.rb", "-c", "1", "-t", "8"])
      require "./application"
      note "loaded \#{SidekiqLifecycle.status.inspect}"

      def child
        fork do
          %w[TERM TSTP].each { |signal| trap(signal, "DEFAULT") }
          Sidekiq::CLI.instance.run(boot_app: false)
        end
      end

      children = []
      stopping = false
      %w[TERM TSTP].each do |signal|
        trap(signal) do
          stopping ||= signal == "TERM"
          children.each do |pid|
            Process.kill(signal, pid)
          rescue Errno::ESRCH
            nil # waited for, and still in the list
          end
          note "parent hears \#{signal}"
        end
      end
      children = Array.new(#{size}) { child }
      until children.empty?
        pid, status = Process.wait2
        children.delete(pid)
        note "child \#{pid} ends \#{status.exitstatus.inspect}"
        children << child unless stopping
      end
      note "parent ends"
      exit 7
    RUBY
    start_program(*launcher, RbConfig.ruby, "./swarm.rb").tap { |swarm| await_children(swarm, size) }
  end

  # Until each runs: the directory is ready as soon as one does.
  def await_children(swarm, size, without: [])
    wait_until(-> { "#{size} children run, but #{notes}" }) do
      children = children_of(swarm)
      swarm.raise_if_ended
      children.size == size && !children.intersect?(without) &&
        children.all? { |pid| record(pid)&.fetch("state") == "running" }
    end
  end

  def children_of(swarm) = registered - [swarm.pid]

  def registered
    Dir.children(file("tmp/sidekiq/processes")).grep(/\A\d+\z/).map(&:to_i).sort
  rescue Errno::ENOENT
    []
  end

  it "has a lifecycle for each child, and none for the parent, which is not a Sidekiq" do
    swarm = start_swarm(2)
    expect(notes).to eq(["loaded nil"])
    children = children_of(swarm)
    expect(registered).to eq(children)
    expect(check).to eq([0, "ready\n"])

    2.times { push("Evaluate", %(note "begins in \#{Process.pid}"; sleep 0.05 until File.exist?("go"); note "ends")) }
    wait_until("each child has a job") { notes.grep(/begins in/).size == 2 }
    expect(notes.grep(/begins in/)).to match_array(children.map { |pid| "begins in #{pid}" })

    swarm.signal(:TSTP)
    wait_until("all are quiet") { children.all? { |pid| record(pid)["state"] == "quiet" } }
    expect(File).not_to exist(ready_file)
    expect(File).not_to exist(drained_file)
    expect(File.read("/proc/#{swarm.pid}/stat").split[2]).not_to eq("T")

    release
    wait_until("drained") { File.exist?(drained_file) }
    expect(notes.count("ends")).to eq(2)

    swarm.signal(:TERM)
    expect(swarm.exit_code).to eq(7)
    expect(notes.grep(/^parent/)).to eq(["parent hears TSTP", "parent hears TERM", "parent ends"])
    expect(notes.grep(/^child/)).to match_array(children.map { |pid| "child #{pid} ends 0" })
    expect(registered).to eq(children)
    children.each { |pid| expect(record(pid)).to include("state" => "stopped", "why" => "SIGTERM", "exit_status" => 0) }
    expect(Dir.children(file("tmp/sidekiq"))).to eq(["processes"])
  end

  it "ignores a killed child, and forgets it when another takes its place" do
    swarm = start_swarm(2)
    killed, other = children_of(swarm)
    Process.kill(:KILL, killed)
    await_children(swarm, 2, without: [killed])
    expect(children_of(swarm)).to include(other)
    expect(notes).to include("child #{killed} ends nil")
    expect(check).to eq([0, "ready\n"])

    Process.kill(:TERM, other)
    await_children(swarm, 2, without: [killed, other])
    expect(check).to eq([0, "ready\n"])
    expect(notes).to include("child #{other} ends 0")
    swarm.signal(:TERM)
    expect(swarm.exit_code).to eq(7)
  end

  it "puts the job of a killed child back, once" do
    swarm = start_swarm(2, install: "lifecycle.recover_jobs = true")
    push("Evaluate", %(note "begins in \#{Process.pid}"; sleep 0.05 until File.exist?("go"); note "ends"))
    wait_until("the job begins") { notes.grep(/begins in/).size == 1 }
    killed = notes.grep(/begins in/).first[/\d+/].to_i
    Process.kill(:KILL, killed)
    wait_until("the job again") { notes.grep(/begins in/).size == 2 }
    expect(notes.grep(/begins in/).last).not_to end_with(" #{killed}")
    release
    wait_for_note("ends")
    expect(redis.call("LLEN", "sidekiq_lifecycle:lost", database: @database)).to eq(1)
    swarm.signal(:TERM)
    expect(swarm.exit_code).to eq(7)
    expect(Dir[file("tmp/sidekiq/recorders/*-*")]).to be_empty
    expect(notes.count("ends")).to eq(1)
  end

  it "has a relay for each child below a shell that is PID 1: TERM reaches each child through the parent" do
    launcher = %w[unshare --pid --fork --kill-child --mount-proc dash -c] + ['"$@"; exit $?', "dash"]
    swarm = start_swarm(2, launcher:)
    2.times { |number| push("Sleep", 2, number.to_s) }
    wait_until("the jobs begin") { notes.grep(/begins/).size == 2 }
    relayed = lambda do
      commands = Dir["/proc/[0-9]*/cmdline"].map { |file| File.read(file).tr("\0", " ") rescue "" } # rubocop:disable Style/RescueModifier
      commands.filter_map { |command| command[/\Asignal-relay (\d+) \d+ \d+ \z/, 1]&.to_i }.sort
    end
    wait_until("each has a relay") { relayed.call == registered }
    pid1 = File.read("/proc/#{swarm.pid}/task/#{swarm.pid}/children").to_i
    Process.kill(:TERM, pid1)
    expect(swarm.exit_code).to eq(7)
    expect(notes).to include("0 ends", "1 ends", "parent ends")
    expect(notes.count("parent hears TERM")).to eq(1)
  end
end
