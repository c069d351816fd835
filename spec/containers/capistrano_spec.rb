# frozen_string_literal: true

# Capistrano deploys over ssh to hosts with a real systemd and sudo, with the files of examples/capistrano. Only the
# stage is ours, because it names the hosts.
#
# Only the Debian system of Sidekiq 7 has Capistrano.
RSpec.describe "Capistrano, to hosts with systemd", :containers, :integration,
               if: Sandbox::MAJOR == 7, skip: SystemdMachine.missing do
  before(:context) { Container.prepare }

  before do
    FileUtils.mkdir_p(@directory = File.join("/build/capistrano", SecureRandom.hex(6)))
    @deployment = Deployment.new(@directory, redis: redis.url(@database), shared: "#{SystemdMachine::DEPLOY_TO}/shared")
    @key = File.join(@directory, "key")
    system("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", @key, exception: true)
    redis.call("FLUSHDB", database: @database)
    @hosts = []
  end

  after do |example|
    warn @deployment.output, *@hosts.map(&:story) if example.exception
    @hosts.each(&:clear)
    FileUtils.rm_rf(@directory)
  end

  # Starts hosts at 127.0.0.1, 127.0.0.2, …
  # @param settings [String] further settings of the stage
  def start_hosts(count, settings = "")
    servers = Array.new(count) do |index|
      address = "127.0.0.#{index + 1}"
      @hosts << SystemdMachine.new(source: @deployment.repository, service: "TimeoutStartSec=600\nTimeoutStopSec=180")
      port = @hosts.last.listen(address, File.read("#{@key}.pub"))
      "server #{address.inspect}, user: \"deploy\", port: #{port}, roles: %w[app worker]"
    end
    @deployment.stage = <<~RUBY
      #{servers.join("\n")}
      set :ssh_options, keys: [#{@key.inspect}], keys_only: true, verify_host_key: :never, config: false
      set :repo_url, "/srv/source"
      set :branch, "main"
      set :default_env, #{ENV.slice("GEM_HOME").inspect}
      #{settings}
    RUBY
  end

  # Starts a host with one worker and these releases. The native command is called without Ruby, which would take most
  # of the time of a call.
  def start_host(*releases)
    start_hosts(1, "set :sidekiq_units, %w[sidekiq]\nset :sidekiq_lifecycle_command, #{Sandbox::COMMAND.inspect}")
    releases.each_with_index do |release, index|
      @deployment.commit(release)
      host.release(@deployment.repository, (20_260_101_000_000 + index).to_s)
    end
    expect(host.start).to eq([0, ""]) if releases.any?
  end

  def host = @hosts.first
  def cap(...) = @deployment.cap(...)
  def deploy(**environment) = cap("deploy", **environment).tap { |code, said| expect(code).to eq(0), said }

  # The states of the running workers of a host.
  def states(host)
    processes = JSON.parse(host.lifecycle("status", "--json").last)["processes"]
    processes.select { |process| process["exists"] }.map { |process| process["record"]["state"] }
  end

  def notes
    files = @hosts.map { |host| host.shared("notes") }.select { |file| File.exist?(file) }
    files.flat_map { |file| File.readlines(file, chomp: true) }
  end

  def occupy(name = "long")
    push("Work", name)
    wait_until("the job begins") { notes.include?("#{name} begins") }
  end

  def go = @hosts.each { |host| FileUtils.touch(host.shared("go")) }

  # When the processes of these units were started on all hosts, in µs of the clock that all hosts share.
  def starts(*units)
    @hosts.flat_map { |host| units.map { |unit| host.show(unit)["ExecMainStartTimestampMonotonic"].to_i } }
  end

  it "quiets the workers of all hosts, and publishes and restarts only when all have drained" do
    units = %w[sidekiq@1 sidekiq@2]
    start_hosts(2)
    _, said = deploy
    expect(said).to include("nothing to quiet", "ready after")
    first = @hosts.map(&:current)
    expect(@hosts.map { |host| states(host) }).to eq([%w[running running]] * 2)

    occupy
    before = starts(*units)
    @deployment.commit("second")
    deploying = @deployment.begin_cap("deploy")
    wait_until("all are quiet") { @hosts.map { |host| states(host) } == [%w[quiet quiet]] * 2 }
    @deployment.wait_for_output("1 of 2 drained, 1 job running")
    @deployment.wait_for_output("drained after")
    push("Work", "late")
    expect(deploying).to be_alive
    expect([@hosts.map(&:current), starts(*units), notes, queued]).to eq([first, before, ["long begins"], 1])

    time = Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond)
    go
    expect(deploying.value.first).to eq(0)
    expect(@hosts.map(&:current).zip(first)).to all(satisfy { |now, then_| now > then_ })
    expect(starts(*units)).to all(be > time)
    wait_until("the late job ends") { notes.size == 4 }
    expect(notes).to contain_exactly("long begins", "long ends in first", "late begins", "late ends in second")
    expect([queued, retries]).to eq([0, 0])
    code, said = cap("sidekiq:status")
    expect([code, said]).to match([0, /^127\.0\.0\.1\nPID +STATE.*\n\d+ +running .*\n\d+ +running /])
    expect(said).to match(/^127\.0\.0\.2\nPID +STATE.*\n\d+ +running .*\n\d+ +running /)
  end

  it "fails before it publishes if the drain takes too long, or continues with :go_on" do
    start_host("first")
    occupy
    before = [host.current, starts("sidekiq")]
    @deployment.commit("second")
    code, said = cap("deploy", SETTINGS: %(set :sidekiq_drain_timeout, "5s"))
    expect(code).to eq(1)
    expect(said).to include("The deploy has failed with an error: not drained, see above: 127.0.0.1; " \
                            "no worker has been restarted\n")
    expect(said).to match(/timed out after #{DURATION}: .*process \d+ is quiet, 1 job still running/)
    expect([host.current, states(host)]).to eq([before.first, %w[running]])
    expect(starts("sidekiq")).not_to eq(before.last)

    # The interrupted job has begun again.
    wait_until("the job begins") { notes == ["long begins"] * 2 }
    _, said = deploy(SETTINGS: %(set :sidekiq_drain_timeout, "5s"; set :sidekiq_when_not_drained, :go_on))
    expect(said).to include("not drained, see above: 127.0.0.1; :sidekiq_when_not_drained is :go_on, so the restart ")
    go
    wait_until("the job ends") { notes.include?("long ends in second") }
    expect([notes.size, queued, retries]).to eq([4, 0, 0])
  end

  it "restarts the quieted workers, and no others, if a deploy fails in any way" do
    start_host("first")
    before = [host.current, starts("sidekiq")]
    expect(cap("deploy", SETTINGS: %(append :linked_files, "missing")).first).to eq(1)
    expect([host.current, starts("sidekiq")]).to eq(before)
    code, said = cap("deploy", SETTINGS: %(before("deploy:updating", "shop:fail") { raise "no such luck" }))
    expect([code, said]).to match([1, /no such luck/])
    expect([host.current, states(host)]).to eq([before.first, %w[running]])
    expect(starts("sidekiq")).not_to eq(before.last)

    occupy
    deploying = @deployment.begin_cap("deploy")
    @deployment.wait_for_output("0 of 1 drained, 1 job running")
    expect(states(host)).to eq(%w[quiet])
    @deployment.interrupt
    expect(deploying.value.first).not_to eq(0)
    expect([host.current, states(host)]).to eq([before.first, %w[running]])
  end

  it "rolls back like it deploys, and restarts the workers if there is nothing to roll back to" do
    start_host("first", "second")
    occupy
    second = host.current
    rolling = @deployment.begin_cap("deploy:rollback")
    wait_until("quiet") { states(host) == %w[quiet] }
    expect([rolling.alive?, host.current]).to eq([true, second])
    go
    expect(rolling.value.first).to eq(0)
    expect(notes).to eq(["long begins", "long ends in second"])
    push("Work", "next")
    wait_until("the next job ends") { notes.size == 4 }
    expect(notes.last).to eq("next ends in first")

    # Capistrano reports it with `exit 1`.
    host.keep_current
    before = starts("sidekiq")
    code, said = cap("deploy:rollback")
    expect([code, said]).to match([1, /no older releases to rollback to/])
    expect(states(host)).to eq(%w[running])
    expect(starts("sidekiq")).not_to eq(before)
  end

  it "supports a release without this gem, also one that it rolls back to" do
    start_hosts(1, "set :sidekiq_units, %w[sidekiq]")
    from_before = %r{cannot be run in /srv/shop/current, which seems to be a release from before}
    active = include("ActiveState" => "active")
    @deployment.commit("old", gem: false)
    _, said = deploy
    expect([said, host.show]).to match([from_before, active])
    @deployment.commit("new")
    _, said = deploy
    expect([said, states(host)]).to match([/ready after/, %w[running]])

    code, said = cap("deploy:rollback")
    expect([code, said, host.show]).to match([0, from_before, active])
    _, said = deploy
    expect([said, states(host)]).to match([from_before, %w[running]])
    expect(said).to include("ready after")
    expect(cap("deploy", "--dry-run").first).to eq(0)
  end

  it "reports that a worker which sudo does not let it restart takes no jobs" do
    start_host("first")
    code, said = cap("deploy", SETTINGS: "set :sidekiq_units, %w[sidekiq cron]")
    expect([code, said]).to match([1, /sudo: a password is required/])
    expect(said).to match(/127\.0\.0\.1: its workers could not be woken, and take no jobs: /)
    expect(states(host)).to eq(%w[quiet])
    expect(cap("sidekiq:wake").first).to eq(0)
    expect(states(host)).to eq(%w[running])
  end

  it "fails if the workers register in another directory" do
    start_host("first")
    nowhere = %(set :sidekiq_lifecycle_dir, "/nowhere"; set :sidekiq_start_timeout, "1s")
    code, said = cap("sidekiq:status", "sidekiq:restart", SETTINGS: nowhere)
    expect([code, said]).to match([1, %r{^127\.0\.0\.1\nNo Sidekiq has registered in /nowhere\.$}])
    expect(said).to match(/timed out after #{DURATION}: no Sidekiq has registered here/)
  end
end
