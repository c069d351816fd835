# frozen_string_literal: true

# Until Sidekiq has installed its traps, nothing but the gem handles TERM and TSTP.
RSpec.describe "signals during the boot" do
  # The application keeps booting until {#release}.
  wait = "sleep 0.01 until File.exist?(\"go\")"
  hold = "note \"booting\"; #{wait}"

  # A :startup hook of the application that runs before ours, because its initializer runs first.
  slow_hook_before = <<~RUBY
    require "sidekiq"
    Sidekiq.configure_server { |config| config.on(:startup) { note "starting"; #{wait} } }
  RUBY
  slow_hook_after = "note \"starting\"; #{wait}"

  # Makes the process PID 1 of its own PID namespace.
  in_namespace = %w[unshare --pid --fork --kill-child --mount-proc]

  let(:launcher) { [] }

  # The third field of a process's stat, after the name in parentheses, is T if it is suspended.
  def watch_stopped(pid)
    Watcher.new { File.read("/proc/#{pid}/stat")[/\) (\S)/, 1] == "T" rescue false } # rubocop:disable Style/RescueModifier
  end

  # The pid of the Sidekiq process, as seen from here.
  def inner(worker)
    return worker.pid if launcher.empty?

    wait_until("unshare has forked") { File.read("/proc/#{worker.pid}/task/#{worker.pid}/children")[/\d+/]&.to_i }
  end

  # The pid that the process sees, which is also the name of its record.
  def own_pid(worker) = launcher.empty? ? worker.pid : 1

  def expect_ended_by_term(worker)
    expect(worker.exit_code).to eq(143)
    expect(record(own_pid(worker))).to include("state" => "stopped", "exit_status" => 143, "why" => "SIGTERM")
    expect(record(own_pid(worker))["timings"].keys).not_to include("running")
  end

  it "TERM ends a process at once that has not loaded the gem yet" do
    worker = start(before: "File.write(\"began\", \"\"); sleep 600")
    wait_until("the application begins") { File.exist?(file("began")) }
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(143)
    expect(File).not_to exist(file("tmp"))
  end

  it "TERM just after the process has been registered, before the gem knows it, is recorded as its end" do
    worker = start(before: <<~RUBY)
      require "sidekiq_lifecycle"
      SidekiqLifecycle::Native::Process.singleton_class.prepend(Module.new do
        def register(*) = super.tap { raise SignalException, "SIGTERM" }
      end)
    RUBY
    expect_ended_by_term(worker)
  end

  { "in an ordinary process" => [], "as PID 1" => in_namespace }.each do |where, its_launcher|
    context where do
      let(:launcher) { its_launcher }

      def start_booting(**options)
        start(launcher:, **options).tap { wait_for_note("booting") }
      end

      it "TERM ends the boot with 143" do
        worker = start_booting(after: "at_exit { note \"at_exit\" }; #{hold}")
        expect(record(own_pid(worker))).to include("state" => "booting", "exit_status" => nil)
        Process.kill(:TERM, inner(worker))
        expect_ended_by_term(worker)
        # An ordinary process dies from the signal, as its parent expects. PID 1 cannot; it exits with the same status.
        expect(worker.status.signaled?).to be(launcher.empty?)
        expect(notes).to eq(%w[booting at_exit])
      end

      it "TSTP does not suspend the process and is not lost: it is quiet as soon as it has started" do
        worker = start_booting(after: hold)
        ready = watch_ready
        stopped = watch_stopped(inner(worker))
        push("Sleep", 0)
        Process.kill(:TSTP, inner(worker))
        release
        wait_until("quiet") { record(own_pid(worker))["state"] == "quiet" }
        wait_until("drained") { File.exist?(drained_file) }
        expect(record(own_pid(worker))).to include("state" => "quiet", "why" => "SIGTSTP while booting")
        expect(stopped.changes).to eq([false])
        Process.kill(:TERM, inner(worker))
        expect(worker.exit_code).to eq(0)
        expect(ready.changes).to eq([false])
      end

      it "TERM ends the boot after a TSTP" do
        worker = start_booting(after: hold)
        Process.kill(:TSTP, inner(worker))
        Process.kill(:TERM, inner(worker))
        expect_ended_by_term(worker)
      end

      it "TSTP does not suspend a process whose boot TERM is ending" do
        worker = start_booting(after: "at_exit { note \"ending\"; sleep 0.01 until File.exist?('end') }; #{hold}")
        Process.kill(:TERM, inner(worker))
        wait_for_note("ending")
        Process.kill(:TSTP, inner(worker))
        release("end")
        expect_ended_by_term(worker)
      end

      it "TERM ends the boot of an application that rescues every exception" do
        worker = start_booting(after: <<~RUBY)
          begin
            note "booting"
            sleep
          rescue Exception => e
            note "rescued \#{e.class}"
          end
        RUBY
        ready = watch_ready
        Process.kill(:TERM, inner(worker))
        expect_ended_by_term(worker)
        expect(notes).to eq(["booting", "rescued SignalException"])
        expect(ready.changes).to eq([false])
      end

      # The Railtie does this long before an initializer installs the gem.
      it "TERM ends the boot of a Rails application that has not reached its initializers" do
        worker = start(launcher:, before: <<~RUBY)
          require "sidekiq_lifecycle"
          SidekiqLifecycle::SidekiqAdapter.guard_boot
          trap("TERM") { File.write("trapped", "") }
          sleep 1
          File.write("began", "")
          sleep
        RUBY
        wait_until("the application begins") { File.exist?(file("began")) }
        Process.kill(:TERM, inner(worker))
        expect(worker.exit_code).to eq(143)
        expect(File).to exist(file("trapped"))
        expect(worker.status.signaled?).to be(launcher.empty?)
      end

      it "INT ends the boot with 130" do
        worker = start_booting(before: "trap(\"INT\", \"DEFAULT\")", after: hold)
        Process.kill(:INT, inner(worker))
        expect(worker.exit_code).to eq(130)
        expect(record(own_pid(worker))).to include("state" => "stopped", "exit_status" => 130, "why" => "SIGINT")
      end
    end
  end

  context "with a trap of the application" do
    # A native thread takes the signal back from Ruby's trap, which takes a moment.
    settle = "sleep 1"

    {
      "set before the gem is installed" => { before: 'trap("TERM") { note "trapped" }', after: hold },
      "set after the gem is installed" => { after: "trap(\"TERM\") { note \"trapped\" }; #{settle}; #{hold}" },
      "that asks for the signal's number" => {
        after: "trap(\"TERM\") { |number| note \"trapped\" if number == 15 }; #{settle}; #{hold}"
      },
      "that raises" => { after: "trap(\"TERM\") { note \"trapped\"; raise \"no\" }; #{settle}; #{hold}" },
      "that is a lambda" => { after: "trap(\"TERM\", -> (_) { note \"trapped\" }); #{settle}; #{hold}" }
    }.each do |what, code|
      it "runs a trap #{what} once, and ends with 143" do
        worker = start(**code)
        wait_for_note("booting")
        worker.signal(:TERM)
        expect_ended_by_term(worker)
        expect(notes).to eq(%w[booting trapped])
      end
    end

    it "ends with the status of a trap that exits" do
      worker = start(after: "trap(\"TERM\") { note \"trapped\"; exit 7 }; #{settle}; #{hold}")
      wait_for_note("booting")
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(7)
      expect(notes).to eq(%w[booting trapped])
      expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 7)
    end

    it "ends with the exception that a trap raises" do
      worker = start(after: "trap(\"TERM\") { note \"trapped\"; raise Interrupt }; #{settle}; #{hold}")
      wait_for_note("booting")
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(130)
      expect(notes).to eq(%w[booting trapped])
      expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 130)
    end

    it "ends with 143 if the application ignores TERM" do
      worker = start(after: "trap(\"TERM\", \"IGNORE\"); #{settle}; #{hold}")
      wait_for_note("booting")
      worker.signal(:TERM)
      expect_ended_by_term(worker)
    end

    it "remembers a TSTP that the application traps" do
      worker = start(after: "trap(\"TSTP\") { note \"trapped\" }; #{settle}; #{hold}")
      wait_for_note("booting")
      ready = watch_ready
      worker.signal(:TSTP)
      release
      wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(ready.changes).to eq([false])
    end
  end

  context "with a slow :startup hook of the application" do
    # A signal may reach Sidekiq's traps in two ways: at once, and after the boot guard has taken the signal back.
    { "at once" => "", "later" => "sleep 1;" }.each do |at, settle|
      %w[TERM INT].each do |signal|
        it "#{signal} in a hook before ours, #{at}, lets Sidekiq start and stop as usual" do
          worker = start(before: slow_hook_before.sub("note", "#{settle} note"))
          wait_for_note("starting")
          ready = watch_ready
          worker.signal(signal)
          release
          expect(worker.exit_code).to eq(0)
          expect(ready.changes).to eq([false])
          expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0, "why" => "SIG#{signal}")
          expect(worker.log).to include("Bye!")
        end
      end
    end

    it "TERM in a hook after ours lets Sidekiq start and stop as usual" do
      worker = start(startup: slow_hook_after)
      wait_for_note("starting")
      ready = watch_ready
      worker.signal(:TERM)
      wait_until("stopping") { record(worker.pid)["state"] == "stopping" }
      release
      expect(worker.exit_code).to eq(0)
      expect(ready.changes).to eq([false])
      expect(record(worker.pid)).to include("state" => "stopped", "exit_status" => 0, "why" => "SIGTERM")
    end

    {
      "before ours, at once," => { before: slow_hook_before },
      "before ours, later," => { before: slow_hook_before.sub("note", "sleep 1; note") },
      "after ours" => { startup: slow_hook_after }
    }.each do |where, code|
      it "TSTP in a hook #{where} takes effect as soon as Sidekiq has started" do
        worker = start(**code)
        wait_for_note("starting")
        ready = watch_ready
        worker.signal(:TSTP)
        release
        wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
        wait_until("drained") { File.exist?(drained_file) }
        worker.signal(:TERM)
        expect(worker.exit_code).to eq(0)
        expect(ready.changes).to eq([false])
      end
    end
  end

  context "with blocked or ignored signals" do
    def launched_with(setup)
      ["python3", "-c", "import os, signal, sys; #{setup}; os.execvp(sys.argv[1], sys.argv[1:])"]
    end

    def blocked(*names)
      signals = names.map { |name| "signal.SIG#{name}" }
      launched_with("signal.pthread_sigmask(signal.SIG_BLOCK, {#{signals.join(", ")}})")
    end

    def ignored(*names)
      launched_with(names.map { |name| "signal.signal(signal.SIG#{name}, signal.SIG_IGN)" }.join("; "))
    end

    # Like a native library that blocks signals around its work and forgets to unblock them.
    block = <<~RUBY
      require "fiddle"
      set = [%w[TERM TSTP INT].sum { |name| 1 << (Signal.list.fetch(name) - 1) }].pack("Qx120")
      arguments = [Fiddle::TYPE_INT, Fiddle::TYPE_VOIDP, Fiddle::TYPE_VOIDP]
      Fiddle::Function.new(Fiddle.dlopen(nil)["pthread_sigmask"], arguments, Fiddle::TYPE_INT).call(0, set, nil)
    RUBY

    # The signals that the main thread blocks (SigBlk) or ignores (SigIgn), according to the kernel.
    def masked(worker, mask)
      bits = File.read("/proc/#{worker.pid}/status")[/^#{mask}:\s*(\h+)/, 1].hex
      %w[TERM TSTP INT].select { |signal| bits[Signal.list.fetch(signal) - 1] == 1 }
    end

    it "unblocks TERM, TSTP and INT if a native library has blocked them, and logs that" do
      worker = start(before: "#{block} File.write(\"began\", \"\"); #{wait}")
      wait_until("the application begins") { File.exist?(file("began")) }
      expect(masked(worker, "SigBlk")).to eq(%w[TERM TSTP INT])
      release
      await_ready(worker)
      expect(masked(worker, "SigBlk")).to eq([])
      %w[TERM TSTP INT].each { |signal| expect(worker.log.scan("SIG#{signal} was blocked").size).to eq(1) }
      worker.signal(:TSTP)
      wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end

    it "handles a TERM that arrived while it was blocked" do
      worker = start(before: "#{block} File.write(\"began\", \"\"); #{wait}", after: "sleep 600")
      wait_until("the application begins") { File.exist?(file("began")) }
      worker.signal(:TERM)
      release
      expect(worker.exit_code).to eq(143)
    end

    # Ruby itself unblocks them when it starts. Otherwise this would be the same case as the examples above.
    it "handles TERM, TSTP and INT if they were blocked when it was launched" do
      worker = start(launcher: blocked("TERM", "TSTP", "INT"), after: hold)
      wait_for_note("booting")
      worker.signal(:TSTP)
      worker.signal(:TERM)
      expect_ended_by_term(worker)
    end

    it "handles TERM and TSTP if they were ignored when it was launched, and logs that" do
      worker = start(launcher: ignored("TERM", "TSTP"), before: "File.write(\"began\", \"\"); #{wait}")
      wait_until("the application begins") { File.exist?(file("began")) }
      expect(masked(worker, "SigIgn") & %w[TERM TSTP]).to eq(%w[TERM TSTP])
      release
      await_ready(worker)
      %w[TERM TSTP].each { |signal| expect(worker.log.scan("SIG#{signal} was ignored").size).to eq(1) }
      worker.signal(:TSTP)
      wait_until("quiet") { record(worker.pid)["state"] == "quiet" }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end

    it "handles an ignored TERM while it boots" do
      worker = start(launcher: ignored("TERM"), after: hold)
      wait_for_note("booting")
      worker.signal(:TERM)
      expect_ended_by_term(worker)
    end

    it "remembers an ignored TSTP while it boots" do
      worker = start(launcher: ignored("TSTP"), after: hold)
      wait_for_note("booting")
      worker.signal(:TSTP)
      release
      wait_until("quiet") { record(worker.pid)&.fetch("state") == "quiet" }
    end

    # `sidekiq &` in a script: the shell ignores INT for it, so that Ctrl-C ends only the foreground command.
    it "leaves an ignored INT alone while it boots, and handles it once Sidekiq traps it" do
      worker = start(launcher: ignored("INT"), after: hold)
      wait_for_note("booting")
      worker.signal(:INT)
      release
      await_ready(worker)
      expect(worker.log).not_to include("SIGINT was")
      worker.signal(:INT)
      expect(worker.exit_code).to eq(0)
    end

    it "logs nothing if no signal is blocked or ignored" do
      worker = start_ready
      expect(worker.log).not_to match(/was (ignored|blocked)/)
    end
  end

  # A web server, a rake task, a parent that preloads: without `Sidekiq::CLI#run` it never becomes a Sidekiq.
  context "in a program that has loaded sidekiq/cli but runs no Sidekiq" do
    def start_server(name, gem: true, after: "", **options)
      File.write(file("#{name}.rb"), <<~RUBY)
        require "sidekiq/cli"
        #{'require "sidekiq_lifecycle"' if gem}
        def note(text) = File.open("notes", "a") { |notes| notes.puts(text) }
        trap("TERM") { note "#{name} stops"; sleep 0.5; note "#{name} stopped"; exit 0 }
        Sidekiq.configure_server do |config|
          config.redis = { url: #{redis.url(@database).inspect} }
          #{"SidekiqLifecycle.install(config)" if gem}
        end
        #{"SidekiqLifecycle::SidekiqAdapter.guard_boot" if gem}
        #{after}
        note "#{name} serves"
        sleep
      RUBY
      start_program(*launcher, RbConfig.ruby, "./#{name}.rb", name:, **options).tap { wait_for_note("#{name} serves") }
    end

    # What the kernel reports about the process: its signals and its threads.
    def known(server)
      status = File.read("/proc/#{server.pid}/status")
      names = Dir["/proc/#{server.pid}/task/*/comm"].map { |comm| File.read(comm).chomp }
      [status[/^SigCgt:\s*(\h+)/, 1], status[/^SigIgn:\s*(\h+)/, 1], names.sort]
    end

    it "changes nothing: signals, threads and its own graceful stop stay, and there is no record" do
      with = start_server("with")
      without = start_server("without", gem: false)
      expect(known(with)).to eq(known(without))
      [with, without].each { |server| server.signal(:TERM) }
      expect([with.exit_code, without.exit_code]).to eq([0, 0])
      expect(notes).to include("with stops", "with stopped", "without stopped")
      expect(File).not_to exist(file("tmp"))
      expect(with.log).not_to include("sidekiq_lifecycle")
    end

    it "lets TSTP suspend it, and TERM end it, like any program without a trap" do
      server = start_server("server", after: 'trap("TERM", "DEFAULT")')
      server.signal(:TSTP)
      wait_until("it is stopped") { File.read("/proc/#{server.pid}/stat")[/\) (\S)/, 1] == "T" }
      server.signal(:CONT)
      server.signal(:TERM)
      expect(server.exit_code).to eq(143)
      expect(server.status).to be_signaled
      expect(File).not_to exist(file("tmp"))
    end

    context "below a shell that is PID 1" do
      let(:launcher) { in_namespace + ["dash", "-c", '"$@"; exit $?', "dash"] }

      it "starts no relay" do
        server = start_server("server")
        shell = inner(server)
        expect(File.read("/proc/#{shell}/status")).to match(/^TracerPid:\s0$/)
      end
    end

    # Each of these calls Sidekiq::CLI#run, which fails before :startup. The program continues.
    failing = lambda do |before: "", application: ""|
      <<~RUBY
        File.write("application.rb", #{application.inspect})
        #{before}
        begin
          Sidekiq::CLI.instance.parse(["-r", "./application.rb"])
          Sidekiq::CLI.instance.run
        rescue RuntimeError => e
          note e.message
        end
        trap("TERM") { note "server stops"; sleep 0.5; note "server stopped"; exit 0 }
        sleep 1 # long enough for a guard to replace this trap
      RUBY
    end
    {
      "installed before" => failing.call(application: 'raise "no database"'),
      "installed by its application" => failing.call(
        before: "SidekiqLifecycle::SidekiqAdapter.remove_instance_variable(:@current)",
        application: 'Sidekiq.configure_server { |config| SidekiqLifecycle.install(config) }; raise "no database"'
      )
    }.each do |how, code|
      it "restores its signals after Sidekiq::CLI#run has failed, #{how}" do
        server = start_server("server", after: code)
        server.signal(:TERM)
        expect(server.exit_code).to eq(0)
        expect(notes).to eq(["no database", "server serves", "server stops", "server stopped"])
        expect(record(server.pid)).to include("state" => "stopped", "exit_status" => 0)
      end
    end

    it "becomes a Sidekiq with Sidekiq::CLI#run: TERM ends its boot with 143, whatever traps there are" do
      server = start_server("server", after: <<~RUBY)
        trap("TERM") { note "trapped" }
        File.write("application.rb", 'note "server serves"; sleep')
        Sidekiq::CLI.instance.parse(["-r", "./application.rb"])
        Sidekiq::CLI.instance.run
      RUBY
      expect(record(server.pid)).to include("state" => "booting")
      server.signal(:TERM)
      expect_ended_by_term(server)
      expect(notes).to eq(["server serves", "trapped"])
    end
  end

  it "is too late for a job that installs the gem, and the log says so" do
    worker = start(gem: false)
    push("Evaluate", <<~RUBY)
      require "sidekiq_lifecycle"
      Sidekiq.configure_server { |config| SidekiqLifecycle.install(config) }
      note "installed \#{SidekiqLifecycle.status.inspect}"
    RUBY
    wait_for_note("installed nil")
    expect(worker.log).to include("sidekiq_lifecycle: install came too late: Sidekiq has started")
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(File).not_to exist(file("tmp"))
  end

  context "after another process was killed" do
    look = 'note Dir.glob("tmp/{sidekiq/{ready,drained,processes/*},pids/*}").sort.inspect'

    def kill(worker)
      worker.signal(:KILL)
      expect(worker.exit_code).to eq(137)
    end

    it "clears its ready file and its record before the application is loaded" do
      predecessor = start_ready
      kill(predecessor)
      expect(File).to exist(ready_file)
      expect(record(predecessor.pid)).to include("state" => "running")
      worker = start(after: "#{look}; #{hold}", name: "successor")
      wait_for_note("booting")
      expect(notes).to eq(["[\"tmp/sidekiq/processes/#{worker.pid}\"]", "booting"])
      expect(check).to eq([1, "not ready: process #{worker.pid} is booting\n"])
    end

    it "clears its drained file" do
      predecessor = start_ready
      predecessor.signal(:TSTP)
      wait_until("drained") { File.exist?(drained_file) }
      kill(predecessor)
      expect(File).to exist(drained_file)
      worker = start(after: "#{look}; #{hold}", name: "successor")
      wait_for_note("booting")
      expect(notes).to eq(["[\"tmp/sidekiq/processes/#{worker.pid}\"]", "booting"])
    end

    it "clears a ready file outside of the directory" do
      elsewhere = 'lifecycle.ready_file = "tmp/pids/sidekiq_started"'
      predecessor = start(install: elsewhere)
      started = file("tmp/pids/sidekiq_started")
      wait_until("ready") { File.exist?(started) || predecessor.raise_if_ended }
      kill(predecessor)
      expect(File).to exist(started)
      worker = start(install: elsewhere, after: "#{look}; #{hold}", name: "successor")
      wait_for_note("booting")
      expect(notes).to eq(["[\"tmp/sidekiq/processes/#{worker.pid}\"]", "booting"])
      release
      wait_until("ready again") { File.exist?(started) || worker.raise_if_ended }
    end
  end
end
