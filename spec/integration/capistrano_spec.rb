# frozen_string_literal: true

# Capistrano deploys a small application over ssh, with the files of examples/capistrano. Only the stage is our own:
# where the server is, and what stands for systemd there.
#
# Of the three systems, that of Sidekiq 7 has Capistrano.
capistrano = if ENV["IN_ROOT"]
               Sandbox::MAJOR == 7
             else
               SshServer.here? && system("cap --version", %i[out err] => File::NULL)
             end

RSpec.describe "Capistrano", if: capistrano do
  before do
    %w[home srv source local/config/deploy ssh supervisor].each { |directory| FileUtils.mkdir_p(file(directory)) }
    @ssh = SshServer.new(file("ssh"))
    @supervisor = Supervisor.new(file("supervisor"))
    add_unit("one")
    git("init", "--quiet", "--initial-branch=main")
    commit("first")
    FileUtils.cp_r("#{File.expand_path("../../examples/capistrano", __dir__)}/.", file("local"))
    File.write(file("local/config/deploy/production.rb"), stage)
  end

  after do |example|
    warn @deploys, @supervisor, @ssh.log if example.exception
    @supervisor.stop
    @ssh.stop
  end

  let(:shared) { file("srv/shared/tmp/sidekiq") }

  def add_unit(name)
    environment = { "SIDEKIQ_LIFECYCLE_DIR" => shared, "REDIS_URL" => redis.url(@database), "NOTES" => file("notes") }
    @supervisor.add(name, *%w[sidekiq -r ./app.rb -c 1 -t 1], directory: file("srv/current"), environment:)
  end

  def git(*arguments)
    identity = %w[-c user.name=Shop -c user.email=shop@example.com]
    system("git", "-C", file("source"), *identity, *arguments, exception: true)
  end

  # A release that tells in its jobs which it is.
  def commit(release)
    File.write(file("source/Gemfile"), %(gem "sidekiq_lifecycle"\n))
    File.write(file("source/app.rb"), <<~RUBY)
      require "sidekiq"
      require "sidekiq_lifecycle"
      Sidekiq.configure_server do |config|
        config.redis = { url: ENV.fetch("REDIS_URL") }
        SidekiqLifecycle.install(config)
      end
      def note(text) = File.open(ENV.fetch("NOTES"), "a") { |notes| notes.puts(text) }

      class Work
        include Sidekiq::Worker
        def perform(name)
          note "\#{name} begins"
          sleep 0.02 until File.exist?(#{file("go").inspect})
          note "\#{name} ends in #{release}"
        end
      end
    RUBY
    git("add", ".")
    git("commit", "--quiet", "--message", release)
  end

  # What a deploy's own file would hold; $SETTINGS is what an example adds.
  def stage
    environment = ENV.slice("PATH", "GEM_HOME").merge("HOME" => file("home"))
    <<~RUBY
      server "127.0.0.1", user: #{@ssh.user.inspect}, port: #{@ssh.port}, roles: %w[app worker]
      set :ssh_options, keys: [#{@ssh.key.inspect}], keys_only: true, verify_host_key: :never, config: false
      set :repo_url, #{file("source").inspect}
      set :branch, "main"
      set :deploy_to, #{file("srv").inspect}
      set :tmp_dir, #{file("home").inspect}
      set :default_env, #{environment.inspect}
      set :sidekiq_systemctl, #{@supervisor.systemctl.inspect}
      set :sidekiq_units, -> { ENV.fetch("UNITS", "one").split }
      eval ENV.fetch("SETTINGS", "")
    RUBY
  end

  # @return [Array] exit status and what was printed
  def cap(*arguments, **environment) = begin_cap(*arguments, **environment).value

  def begin_cap(*arguments, **environment)
    output = file("deploys")
    from = File.size?(output).to_i
    @cap = spawn(environment.transform_keys(&:to_s), "cap", "production", *arguments,
                 chdir: file("local"), in: File::NULL, out: [output, "a"], err: %i[child out])
    Thread.new(@cap) do |pid|
      status = Process.wait2(pid).last
      [status.exitstatus, (@deploys = File.read(output)).byteslice(from..)]
    end
  end

  def deploy(**environment) = cap("deploy", **environment).tap { |code, said| expect(code).to eq(0), said }

  def release = File.realpath(file("srv/current"))
  def starts = @supervisor.notes.filter_map { |note| note.match(/\A(\w+) starts in (.*)/)&.captures }
  def restarts = @supervisor.notes.grep(/\Arestart/)

  # The states of the processes that live.
  def states
    processes = JSON.parse(command("status", "--dir", shared, "--json").last)["processes"]
    processes.select { |process| process["exists"] }.map { |process| process["record"]["state"] }
  end

  def occupy(name = "long")
    push("Work", name)
    wait_until("the job begins") { notes.include?("#{name} begins") }
  end

  def go = FileUtils.touch(file("go"))

  it "quiets, waits until the jobs in hand are done, and only then publishes and restarts" do
    add_unit("two")
    _, said = deploy(UNITS: "one two")
    expect(said).to include("No Sidekiq runs with #{shared}: nothing to quiet", "ready after")
    first = release
    expect(starts).to contain_exactly(["one", first], ["two", first])
    wait_until("both are ready") { states == %w[running running] }

    occupy
    commit("second")
    deploying = begin_cap("deploy", UNITS: "one two")
    wait_until("both are quiet") { states == %w[quiet quiet] }
    wait_until("the deploy waits") { File.read(file("deploys")).include?("1 of 2 drained, 1 job running") }
    push("Work", "late")
    expect(deploying).to be_alive
    expect([release, restarts.size, notes, queued]).to eq([first, 1, ["long begins"], 1])

    go
    code, said = deploying.value
    expect(code).to eq(0)
    expect(said).to match(/drained after .* 2 processes/).and match(/ready after/)
    expect(release).not_to eq(first)
    expect(starts.drop(2)).to contain_exactly(["one", release], ["two", release])
    wait_until("the late job ends") { notes.size == 4 }
    expect(notes).to eq(["long begins", "long ends in first", "late begins", "late ends in second"])
    expect([queued, retries]).to eq([0, 0])
  end

  it "fails before anything is published when the drain takes too long, says so, and wakes the old release" do
    deploy
    first = release
    occupy
    commit("second")
    code, said = cap("deploy", SETTINGS: %(set :sidekiq_drain_timeout, "1s"))
    expect(code).to eq(1)
    expect(said).to include("The deploy has failed with an error: not drained, as said above: 127.0.0.1; " \
                            "no worker has been restarted\n")
    expect(said).to match(/timed out after \d+ s: .*process \d+ is quiet, 1 job still running/)
    expect([release, starts]).to eq([first, [["one", first]] * 2])
    expect(states).to eq(%w[running])
    go
    wait_until("the job that was cut off has been done again") { notes.include?("long ends in first") }
    expect([queued, retries]).to eq([0, 0])
  end

  it "goes on without the drain where it is told to" do
    deploy
    occupy
    commit("second")
    code, said = cap("deploy", SETTINGS: %(set :sidekiq_drain_timeout, "1s"; set :sidekiq_when_not_drained, :go_on))
    expect(code).to eq(0)
    expect(said).to include("not drained, as said above: 127.0.0.1; :sidekiq_when_not_drained is :go_on, and ")
    go
    wait_until("the job has been done again") { notes.include?("long ends in second") }
  end

  it "wakes the workers when a deploy or a rollback fails, however it does, and nobody who was not quieted" do
    deploy
    first = release
    expect(cap("deploy", SETTINGS: %(append :linked_files, "missing")).first).to eq(1)
    expect(starts.size).to eq(1)
    code, said = cap("deploy", SETTINGS: %(before("deploy:updating", "shop:fail") { raise "no such luck" }))
    expect([code, said]).to match([1, /no such luck/])
    expect([starts, states]).to eq([[["one", first]] * 2, %w[running]])
    # There is one release only, and Capistrano says so with `exit 1`.
    FileUtils.rm_rf(Dir[file("srv/releases/*")] - [first])
    code, said = cap("deploy:rollback")
    expect([code, said]).to match([1, /no older releases to rollback to/])
    expect([starts, states]).to eq([[["one", first]] * 3, %w[running]])
  end

  it "wakes the workers after Ctrl-C" do
    deploy
    first = release
    occupy
    deploying = begin_cap("deploy")
    wait_until("quiet") { states == %w[quiet] }
    wait_until("the deploy waits") { File.read(file("deploys")).include?("0 of 1 drained, 1 job running") }
    Process.kill(:INT, @cap)
    expect(deploying.value.first).not_to eq(0)
    expect([release, starts, states]).to eq([first, [["one", first]] * 2, %w[running]])
  end

  it "rolls back as it deploys" do
    deploy
    first = release
    commit("second")
    deploy
    occupy
    rolling = begin_cap("deploy:rollback")
    wait_until("quiet") { states == %w[quiet] }
    expect([rolling.alive?, release]).to eq([true, starts.last.last])
    go
    expect(rolling.value.first).to eq(0)
    expect([release, starts.last, notes]).to eq([first, ["one", first], ["long begins", "long ends in second"]])
  end

  it "says of what it could not restart that it takes no jobs" do
    deploy
    code, said = cap("deploy", UNITS: "one nobody")
    expect(code).to eq(1)
    expect(said).to match(/The deploy has failed with an error: .*/).and include("Unit nobody not found.")
    expect(said).to match(/127\.0\.0\.1: could not be woken, and takes no jobs: /)
    expect(states).to eq(%w[quiet])
    expect(cap("sidekiq:wake").first).to eq(0)
    expect(states).to eq(%w[running])
  end

  it "fails where the workers register elsewhere, and are never seen" do
    code, said = cap("deploy", SETTINGS: %(set :sidekiq_lifecycle_dir, "/nowhere"; set :sidekiq_start_timeout, "1s"))
    expect([code, said]).to match([1, /timed out after \d+ s: no Sidekiq has registered here/])
  end

  it "shows the workers of each host" do
    expect(cap("sidekiq:status")).to match([0, /^127\.0\.0\.1\nNo Sidekiq has registered in #{shared}\.$/])
    deploy
    pid = @supervisor.pid("one")
    expect(cap("sidekiq:status")).to match([0, /^127\.0\.0\.1\nPID +STATE.*\n#{pid} +running /])
    expect(cap("sidekiq:quiet").first).to eq(0)
    wait_until("quiet") { states == %w[quiet] }
    expect(starts.size).to eq(1)
  end

  it "takes no setting that it does not know, and says where nobody has the role" do
    code, said = cap("sidekiq:status", SETTINGS: "set :sidekiq_when_not_drained, :maybe")
    expect([code, said]).to match([1, /:sidekiq_when_not_drained is :maybe; set it to :fail or :go_on/])
    code, said = cap("sidekiq:status", SETTINGS: "set :sidekiq_roles, :nobody")
    expect([code, said]).to match([0, /No server has the role nobody \(:sidekiq_roles\): no worker is looked after/])
  end

  it "loads neither Sidekiq nor the native part where somebody deploys" do
    loaded = %q(at_exit { puts "loaded: #{[defined?(Sidekiq), $LOADED_FEATURES.grep(/sidekiq.*\.so/)]}" })
    expect(cap("-T", SETTINGS: loaded).last).to include("cap sidekiq:wait_drained")
    expect(cap("sidekiq:status", SETTINGS: loaded).last).to include("loaded: [nil, []]")
  end
end
