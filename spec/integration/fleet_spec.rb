# frozen_string_literal: true

require "etc"
require "io/console"
require "pty"
require "socket"

RSpec.describe "the command fleet" do
  include FleetCommand

  # A Sidekiq with frequent heartbeats: it soon receives what is sent through Redis.
  def start_listed(**options)
    worker = start(**options, after: "#{QUICK_HEARTBEAT}#{KEEP_STALE}#{options[:after]}")
    wait_until("it is listed") { lists?(worker) || worker.raise_if_ended }
    return worker if options[:gem] == false

    # The first heartbeat may still report it as booting.
    wait_until("it is published as running") { published(worker)["state"] == "running" }
    worker
  end

  def lists?(worker) = !identity_of(worker).nil?
  def host = Socket.gethostname
  def named(worker) = "#{host}:#{worker.pid}"
  def members = fleet_json("status").fetch("processes").to_h { |member| [member["pid"], member] }

  # Starts a job that runs until {#release}, and waits until a heartbeat has reported it.
  def start_reported_job
    start_job
    wait_until("a heartbeat reports the job") do
      listed.sum { |identity| redis.call("HGET", identity, "busy", database: @database).to_i } == 1
    end
  end

  # Starts each of them again when it has ended, as a supervisor would.
  def supervise(workers)
    Thread.new do
      Thread.current.report_on_exception = true
      loop do
        workers.map! { |worker| worker.running? ? worker : start(after: QUICK_HEARTBEAT + KEEP_STALE) }
        sleep 0.05
      end
    end
  end

  describe "status" do
    it "shows processes with and without the gem, and stale ones" do
      with = start_listed
      without = start_listed(name: "plain", gem: false)
      add_stale("#{host}:1:f00")
      code, out, = fleet("status")
      expect(code).to eq(0)
      expect(out).to match(/^PROCESS +STATE +BUSY +BEAT +SIDEKIQ +TAG +QUEUES +SIGTERM$/)
      expect(out).to match(%r{^#{named(with)} +running +0/2 +#{DURATION} ago +#{Sidekiq::VERSION} })
      expect(out).to match(%r{^#{named(without)} +running +0/2 +#{DURATION} ago })
      expect(out).to match(/^#{host}:1 +ghost +- +- +- /)
      expect(out).to end_with("\n\n3 in all: 1 ghost, 2 running; 0 of 4 threads busy\n")

      expect(members[with.pid]).to include("ready" => true, "drained" => false, "lifecycle" => SidekiqLifecycle::VERSION,
                                           "version" => Sidekiq::VERSION, "concurrency" => 2, "queues" => ["default"])
      expect(members[without.pid]).to include("ready" => true, "drained" => nil, "lifecycle" => nil, "concurrency" => 2)
      expect(members[1]).to include("state" => "ghost", "ready" => false, "busy" => 0)
    end

    it "is an error if there is no process" do
      expect(fleet("status")).to eq([1, "", "sidekiq-lifecycle: no Sidekiq is registered in this Redis\n"])
      start_listed
      expect(fleet("status", "--match", "nix")).to eq([1, "", "sidekiq-lifecycle: no process matches\n"])
    end
  end

  it "publishes the state beside the heartbeat, for as long as that lasts" do
    worker = start_listed
    expect(published(worker)).to include("schema" => 1, "state" => "running", "ready" => true, "drained" => false,
                                         "drained_at" => nil, "version" => SidekiqLifecycle::VERSION)
    expect(redis.call("TTL", "#{identity_of(worker)}:lifecycle", database: @database)).to be_between(1, 60)
    worker.signal(:TSTP)
    wait_until("its drain is published") { published(worker)["drained_at"] }
    identity = listed.first
    worker.signal(:TERM)
    worker.exit_code
    last = JSON.parse(redis.call("GET", "#{identity}:lifecycle", database: @database))
    # A heartbeat that was on its way may have published the end itself.
    expect(last).to include("state" => a_string_matching(/\Astop(ping|ped)\z/), "drained_at" => a_kind_of(String),
                            "interrupted" => 0)
  end

  it "quiets, waits for and stops processes with and without the gem" do
    workers = [start_listed, start_listed(name: "plain", gem: false)]
    start_reported_job
    waiting = fleet_in_background("quiet", "--wait")
    wait_until("both are quiet") { members.values.all? { |member| member["quiet"] } }
    expect(waiting).to be_running
    release
    expect(waiting.exit_code).to eq(0)
    expect(waiting.log).to match(/^\d of 2 drained, 1 job running$/).and match(/^2 of 2 drained after #{DURATION}$/)
    expect(notes).to include("job ends")

    push("Sleep", 0)
    expect(fleet("wait", "quiet").first).to eq(0)
    expect(queued).to eq(1)
    code, out, = fleet("stop")
    expect([code, out]).to match([0, /\A2 of 2 stopped after #{DURATION}\n\z/])
    expect(workers.map(&:exit_code)).to eq([0, 0])
    expect(queued).to eq(1)
  end

  # Sidekiq's heartbeats go on after it has left (`launcher.rb`, `clear_heartbeat`). It has not drained, so if it were
  # taken for killed its job would be called lost.
  it "counts a process as stopped although a last heartbeat has put it back on Sidekiq's list" do
    worker = start_listed(timeout: 3, concurrency: 1, after: <<~RUBY)
      Sidekiq::Launcher.prepend(Module.new do
        private

        def clear_heartbeat(...)
          super
          @has_left_redis = false
          ❤
        end
      end)
    RUBY
    start_reported_job
    expect(fleet("stop")[0..1]).to match([0, /\A1 of 1 stopped after #{DURATION}, 1 job interrupted .*\n\z/])
    expect(worker.exit_code).to eq(0)
    expect(listed.size).to eq(1)
  end

  it "controls only the selected processes, and none in a dry run" do
    worker = start_listed(environment: { "DYNO" => "worker-1" }) # which Sidekiq takes for the hostname
    mailer = start_listed(environment: { "DYNO" => "mailer-1" }, name: "mailer")
    add_stale("#{host}:1:f00")
    expect(fleet("quiet", "--dry-run", "--match", "worker-*"))
      .to eq([0, "worker-1:#{worker.pid}  would be told to be quiet (running, 0 jobs)\n", ""])
    expect(fleet("stop", "--dry-run")[1]).to match(/^#{host}:1 +is a ghost, and would be left out$/)
    expect(fleet_json("stop", "--dry-run", "--match", "mailer-*")["processes"])
      .to match([a_hash_including("pid" => mailer.pid, "would" => "stop")])
    states = -> { members.values_at(worker.pid, mailer.pid).map { |member| member["state"] } }
    expect(states.call).to eq(%w[running running])

    expect(fleet("quiet", "--match", "nix")[0..1])
      .to eq([1, "not reached: no process matches nix; there are 3, see them with: sidekiq-lifecycle fleet status\n"])
    expect(fleet("quiet", "--match", "colour=red").first).to eq(2)
    expect(fleet("quiet", "--except", "mailer-*")[0..1])
      .to match([0, /\A1 of 1 quiet after #{DURATION}, 1 ghost left out\n\z/])
    expect(states.call).to eq(%w[quiet running])
  end

  it "fails if only stale processes match" do
    add_stale("#{host}:1:f00")
    only_ghosts = [1, /\Anot reached: only ghosts: Sidekiq still lists them/, ""]
    expect([fleet("stop"), fleet("stop", "--dry-run"), fleet("wake", "--dry-run")]).to all(match(only_ghosts))
    nobody = "no process matches nix but not x; there are 1, see them with: sidekiq-lifecycle fleet status"
    expect(fleet_json("stop", "--dry-run", "--match", "nix", "--except", "x"))
      .to include("outcome" => "not-reached", "reason" => nobody, "progress" => nil)
  end

  it "restarts the drained processes, and leaves the busy ones alone" do
    both = [start_listed, start_listed(name: "other")]
    start_reported_job
    idle, busy = both.sort_by { |worker| members[worker.pid]["busy"] } # the one that has the job
    expect(fleet("wake")[0..1]).to eq([1, "not reached: no process is quiet, so there is none to wake\n"])
    expect(fleet("quiet").first).to eq(0)
    workers = [idle]
    supervisor = supervise(workers)
    code, out, = fleet("wake")
    expect(code).to eq(1)
    expect(out).to start_with("not reached: 1 of 2 woken; still busy and left alone: #{named(busy)} (1 job)\n")
    expect(out).to end_with("1 process was told to stop, and will stop.\n")
    expect(idle.exit_code).to eq(0)
    expect(busy).to be_running
    expect(members.values.map { |member| member["state"] }).to contain_exactly("quiet", "running")

    release
    workers << busy
    wait_until("it is known to have drained") { published(busy)["drained"] }
    expect(fleet("wake")[0..1]).to match([0, /\A1 of 1 ready after #{DURATION}\n\z/])
    expect(notes).to include("job ends")
  ensure
    supervisor&.kill
  end

  it "stops in batches, the next one only when as many new processes are ready" do
    4.times { |number| start_listed(name: "worker#{number}") }
    old = @workers.dup
    running = @workers.dup
    supervisor = supervise(running)
    at_work = Watcher.new { running.count { |worker| record(worker.pid)&.fetch("state") == "running" } }
    code, out, err = fleet("stop", "--batch", "25%", "--timeout", "5m")
    expect([code, out]).to match([0, /\A4 of 4 ready after #{DURATION}, batch 4 of 4$/])
    expect(err).to match(/^\d of 4 stopped, batch \d of 4$/)
    expect(at_work.changes.min).to eq(3)
    expect(old.map(&:exit_code)).to all(eq(0))
  ensure
    supervisor&.kill
  end

  it "drains before it stops, with --drain-first" do
    worker = start_listed
    start_reported_job
    stopping = fleet_in_background("stop", "--drain-first")
    wait_until("it is quiet") { published(worker)["state"] == "quiet" }
    expect(worker).to be_running
    release
    expect([stopping.exit_code, worker.exit_code]).to eq([0, 0])
    expect(notes).to include("job ends")
    expect(record(worker.pid)["timings"]["drained"]).to be < record(worker.pid)["timings"]["stopping"]
  end

  it "waits until new processes are ready" do
    start_listed
    expect(fleet("wait", "ready")[0..1]).to match([0, /\A1 of 1 ready after/])
  end

  describe "ends clearly" do
    it "when the time is over" do
      worker = start_listed
      start_reported_job
      code, out, = fleet("quiet", "--wait", "--timeout", "2s")
      expect(code).to eq(124)
      job = "#{named_job} on #{named(worker)}"
      expect(out).to match(/\Anot reached: timed out after 2 s: 0 of 1 drained, 1 job running; still running: #{job}
1 process was told to go quiet, and will stay quiet.\n\z/)
      wait_until("it is quiet") { published(worker)["state"] == "quiet" }
      report = fleet_json("wait", "drained", "--timeout", "1s")
      expect(report).to include("schema" => 3, "action" => "wait", "outcome" => "timed-out")
      job = { "class" => "Evaluate", "queue" => "default", "process" => listed.first }
      expect(report["progress"]["jobs"]).to match([a_hash_including(job)])
    end

    it "when a process that it waits for is killed" do
      worker = start_listed
      start_reported_job
      waiting = fleet_in_background("quiet", "--wait")
      wait_until("it is quiet") { published(worker)["state"] == "quiet" }
      worker.kill
      redis.call("DEL", listed.first, database: @database) # a minute later
      expect(waiting.exit_code).to eq(1)
      expect(waiting.log).to include("not reached: 1 of 1 not drained: #{named(worker)} fell silent")
    end

    it "when a process can never drain; --drain-first still stops it" do
      worker = start_listed(timeout: 3)
      push("Evaluate", "Thread.exit")
      wait_until("it is reported") { published(worker)["never_drains"] }
      reason = /#{named(worker)} can never drain: a thread of Sidekiq has died in the middle of Evaluate \h+, /
      expect(fleet("quiet", "--wait")).to match([1, /^not reached: 1 of 1 not drained: #{reason}/, String])
      expect(fleet("wait", "drained")).to match([1, /^not reached: 1 of 1 not drained: #{reason}/, String])
      end_of_it = "1 of 1 stopped, 1 job interrupted at the shutdown timeout and pushed back: Evaluate "
      expect(fleet("stop", "--drain-first"))
        .to match([1, /^not reached: 1 of 1 not drained: #{reason}.*; #{end_of_it}/, String])
      expect([worker.exit_code, queued]).to eq([0, 1])
    end

    it "when Ctrl-C is pressed" do
      worker = start_listed
      start_reported_job
      waiting = fleet_in_background("quiet", "--wait")
      wait_until("it waits") { waiting.log.include?("0 of 1 drained, 1 job running") }
      # It prints that before it has sent anything.
      wait_until("it has quieted the process") { record(worker.pid)["state"] == "quiet" }
      waiting.signal(:INT)
      expect(waiting.exit_code).to eq(130)
      job = "#{named_job} on #{named(worker)}"
      expect(waiting.log).to match(/^not reached: interrupted: 0 of 1 drained, 1 job running; still running: #{job}
1 process was told to go quiet, and will stay quiet.\n\z/)
    end

    it "when Redis is gone, but goes on when Redis comes back" do
      own_redis
      worker = start_listed
      start_reported_job
      waiting = fleet_in_background("quiet", "--wait")
      wait_until("it waits") { waiting.log.include?("0 of 1 drained, 1 job running") }
      own_redis.stop
      wait_until("it is reported") { waiting.log.include?("Redis does not answer") }
      own_redis.start # with nothing in it
      wait_until("it is listed again") { lists?(worker) }
      release
      expect([waiting.exit_code, waiting.log]).to match([0, /^1 of 1 drained after/])

      waiting = fleet_in_background("wait", "stopped")
      wait_until("it waits") { waiting.log.include?("0 of 1 stopped") }
      own_redis.stop
      expect(waiting.exit_code).to eq(1)
      expect(waiting.log)
        .to match(/^not reached: Redis has not answered for 30 s: .*; when it was seen last: 0 of 1 stopped$/)
      expect(fleet("status")).to match([1, "", /\Asidekiq-lifecycle: Redis does not answer: /])
      expect(worker).to be_running
    end
  end

  describe "webhooks" do
    after { @webhooks&.each(&:stop) }

    def webhook(...) = Webhook.new(...).tap { |webhook| (@webhooks ||= []) << webhook }

    it "report when it begins, how it ends, and who called it" do
      start_listed
      slack = webhook
      plain = webhook
      code, = fleet("quiet", "--match", host, "--by", "Ann <ann>", "--timeout", "90s", "--webhook", plain.url,
                    environment: { "SIDEKIQ_LIFECYCLE_SLACK_WEBHOOK" => slack.url })
      expect(code).to eq(0)
      expect(slack.messages).to match(
        [{ "text" => "Ann &lt;ann&gt; asks 1 Sidekiq process to be quiet (#{host}), for 1 min 30 s at most" },
         { "text" => /\A1 of 1 quiet after #{DURATION} \(#{host}\) \(asked by Ann &lt;ann&gt;\)\z/ }]
      )
      expect(plain.messages.map { |message| message["event"] }).to eq(%w[started reached])
      expect(plain.messages.last).to include("by" => "Ann <ann>", "action" => "quiet", "outcome" => "reached",
                                             "progress" => a_hash_including("done" => 1, "total" => 1))
    end

    it "name the jobs that are waited for, and never their arguments" do
      start_listed
      start_reported_job
      plain = webhook
      expect(fleet("quiet", "--wait", "--timeout", "1s", "--webhook", plain.url).first).to eq(124)
      said = plain.messages.last.to_s
      expect(said).to match(/Evaluate.*\h{24}/)
      expect(said).not_to include("File.exist")
    end

    it "report a failure, also an immediate one" do
      plain = webhook
      expect(fleet("stop", "--webhook", plain.url).first).to eq(1)
      expect(plain.messages).to match([a_hash_including("event" => "failed", "outcome" => "not-reached",
                                                        "by" => "#{Etc.getpwuid.name}@#{host}")])
    end

    it "report an application that cannot be loaded, and a Redis without an address" do
      plain = webhook
      File.write(file("boom.rb"), "raise 'boom'")
      expect(fleet("stop", "-r", "boom.rb", "--webhook", plain.url)[0..1])
        .to match([1, /\Anot reached: boom\.rb cannot be loaded: RuntimeError: boom/])
      expect(fleet("stop", "--webhook", plain.url, environment: { "REDIS_URL" => "http://x" })[0..1])
        .to match([1, /\Anot reached: Redis has no usable address/])
      expect(plain.messages.map { |message| message.values_at("event", "reason") })
        .to match([["failed", /boom/], ["failed", /no usable address/]])
    end

    it "are all called, even if one hangs" do
      start_listed
      plain = webhook
      _, _, err = fleet("quiet", "--webhook", plain.url, "--slack-webhook", webhook(status: nil).url)
      expect(plain.messages.map { |message| message["event"] }).to eq(%w[started reached])
      expect(err).to match(/^the Slack webhook (has not answered|could not be called)/)
      expect(err).not_to match(/^the webhook|secret/)
    end

    it "are off if their variables are empty, and stay secret if they are wrong" do
      start_listed
      variables = %w[SIDEKIQ_LIFECYCLE_SLACK_WEBHOOK SIDEKIQ_LIFECYCLE_WEBHOOK]
      code, out, err = fleet("quiet", environment: variables.to_h { |name| [name, ""] })
      expect([code, out]).to match([0, /\A1 of 1 quiet/])
      expect(err).not_to include("webhook")
      code, _, err = fleet("quiet", environment: { variables.first => "hooks.example/secret" })
      expect([code, err]).to match([2, /--slack-webhook/])
      expect(err).not_to include("secret")
    end

    it "do not make the command fail if they fail or hang" do
      start_listed
      { webhook(status: "500 Oops").url => /^the webhook answered 500$/,
        webhook(status: nil).url => /^the webhook (has not answered for 5 s|could not be called: Net::ReadTimeout)/,
        "http://127.0.0.1:1/" => /^the webhook could not be called: Errno::ECONNREFUSED$/ }.each do |url, complaint|
        code, out, err = fleet("quiet", "--webhook", url)
        expect([code, out]).to match([0, /\A1 of 1 quiet/])
        expect(err).to match(complaint)
        expect(err).not_to include("secret")
      end
    end
  end

  it "draws a progress bar on a terminal of any size, and names the slowest jobs" do
    start_listed
    start_reported_job
    PTY.spawn(surroundings, *line(["quiet", "--wait"]), chdir: app) do |screen, _, pid|
      screen.winsize = [24, 120]
      shown = +""
      look = -> { shown << screen.read_nonblock(4096, exception: false).to_s.delete_prefix("wait_readable") }
      wait_until("the bar is drawn") { look.call.match?(/\[ +\] 0 of 1 drained, 1 job running  #{DURATION}/) }
      wait_until("the job is drawn") { look.call.match?(/#{named_job} on #{host}:\d+/) }
      screen.winsize = [24, 40]
      from = shown.size
      # What is drawn before the first narrow line may be as wide as before.
      narrow = -> { look.call[from..].dup.force_encoding("UTF-8").scrub.partition("…").last }
      wait_until("it is drawn narrower, twice") { narrow.call.include?("…") }
      # Every drawing starts at the line where the last one started.
      lines = narrow.call.gsub(/\e\[[0-9;?]*[A-Za-z]/, "").split(/[\r\n]+/).last(4)
      expect(lines.map(&:size).max).to be < 40
      release
      wait_until("it ends") { look.call.match?(/1 of 1 drained after #{DURATION}/) }
      expect(Process.wait2(pid).last.exitstatus).to eq(0)
    rescue Errno::EIO
      expect(shown).to match(/1 of 1 drained after/)
    end
  end

  it "loses nothing when it quiets, waits for and stops twenty processes" do
    workers = Array.new(20) { |number| start(after: QUICK_HEARTBEAT, name: "app#{number}", timeout: 60) }
    wait_until("all are listed") { listed.size == 20 }
    60.times { |number| push("Sleep", (number % 7) * 0.5, "job #{number}") }
    wait_until("some work") { notes.grep(/begins/).size >= 20 }
    code, = fleet("quiet", "--wait", "--timeout", "10m")
    ended = Time.now
    expect(code).to eq(0)
    begun = notes.grep(/begins/).size
    expect(notes.grep(/ends/).size).to eq(begun)
    # Two heartbeats take less than a second here. Close to a minute would mean that it waited for a key to expire.
    expect(ended - File.mtime(file("notes"))).to be < 55
    expect(fleet("stop").first).to eq(0)
    expect(workers.map(&:exit_code)).to all(eq(0))
    expect(queued + begun).to eq(60)
    expect(notes.uniq.size).to eq(notes.size)
  end

  it "has a Ruby API" do
    worker = start_listed
    start_reported_job
    script = <<~RUBY
      require "sidekiq"
      require "sidekiq_lifecycle"
      fleet = SidekiqLifecycle::Fleet.new
      begin
        fleet.quiet(match: "#{host}", timeout: 1) { |progress| puts progress }
      rescue SidekiqLifecycle::Fleet::TimedOut => e
        puts e.message, e.progress.jobs.map(&:job_class).inspect
      end
      sleep 0.1 until fleet.members.first.state == :quiet
      puts fleet.members.map { |member| [member.pid, member.state, member.busy] }.inspect
    RUBY
    out, status = Open3.capture2(surroundings, "ruby", "-e", script)
    expect(status).to be_success
    expect(out.lines(chomp: true)).to include("0 of 1 drained, 1 job running", '["Evaluate"]',
                                              "[[#{worker.pid}, :quiet, 1]]")
    job = "#{named_job} on #{named(worker)}"
    expect(out).to match(/^timed out after 1 s: 0 of 1 drained, 1 job running; still running: #{job}$/)
  end
end
