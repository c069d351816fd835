# frozen_string_literal: true

RSpec.describe "the lifecycle directory" do
  let(:directory) { file("tmp/sidekiq") }

  before { FileUtils.mkdir_p(file("tmp")) }

  def remount(path, how) = system("mount", "-o", "remount,#{how}", path, exception: true)

  def fill(path)
    File.open(File.join(path, "filling"), "a") { |filling| loop { filling.syswrite("x" * 4096) } }
  rescue Errno::ENOSPC
    nil
  end

  def make_room(path) = File.unlink(File.join(path, "filling"))

  # The problems that the process reports in a job, which also shows that it runs jobs.
  def problems
    @asked = (@asked || 0) + 1
    push("Evaluate", "note \"problems #{@asked} \#{SidekiqLifecycle.status.problems.inspect}\"")
    wait_until("the job has run") { notes.find { |note| note.start_with?("problems #{@asked} ") } }.split(" ", 3).last
  end

  # Lets several heartbeats pass, so that a line logged at each of them would be seen.
  def beat_on
    push("Sleep", 1, "meanwhile")
    wait_until("some beats") { notes.include?("meanwhile ends") }
  end

  # Like an image that sets no locale.
  it "may have non-ASCII letters in its path, whatever the locale is" do
    Dir.mkdir(file("ä"))
    %w[LANG LC_ALL].each do |name|
      worker = start_ready_in("ä/é", name, environment: { "LANG" => nil, "LC_ALL" => (name == "LANG" ? nil : "POSIX") },
                                           install: "lifecycle.directory = 'ä/é'; lifecycle.ready_file = 'ä/è'")
      expect(complaints(worker)).to be_empty
      expect(command("check", "--dir", file("ä/é"))).to eq([0, "ready\n"])
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(File).not_to exist(file("ä/è"))
    end
  end

  it "may be below a root with non-ASCII letters, and be set in the environment" do
    Dir.mkdir(file("ä"))
    worker = start(environment: { "LANG" => nil, "SIDEKIQ_LIFECYCLE_DIR" => file("ä/é") },
                   install: "config[:tag] = 'ü'.b if config.respond_to?(:[])")
    wait_until("ready") { command("check", "--dir", file("ä/é")).first.zero? || worker.raise_if_ended }
    expect(complaints(worker)).to be_empty
  end

  def start_ready_in(directory, name, **options)
    start(name:, **options).tap do |worker|
      wait_until("ready") { command("check", "--dir", file(directory)).first.zero? || worker.raise_if_ended }
      expect(File).to exist(file("ä/è")).and exist(file(directory, "processes", worker.pid.to_s))
    end
  end

  # A wrong variable is reported, and does not end the worker.
  { "SIDEKIQ_LIFECYCLE_SIGNAL_RELAY" => ["sometimes", /SIGNAL_RELAY is "sometimes" and is ignored/],
    "SIDEKIQ_LIFECYCLE_HTTP" => ["localhost:80", /SIDEKIQ_LIFECYCLE_HTTP is "localhost:80" and is ignored/],
    "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT" => ["-1", /SIDEKIQ_LIFECYCLE_STOP_TIMEOUT is "-1"/],
    "ECS_CONTAINER_STOP_TIMEOUT" => ["soon", /ECS_CONTAINER_STOP_TIMEOUT is "soon"/],
    "ECS_AGENT_URI" => ["http://[::1", /ECS_AGENT_URI is "http:..\[::1"/],
    "NOTIFY_SOCKET" => ["nowhere", /NOTIFY_SOCKET is "nowhere", so systemd receives no notifications/] }
    .each do |name, (value, problem)|
    it "works with #{name}=#{value}, and the log says what is wrong" do
      install = "lifecycle.ecs_task_protection = #{name == "ECS_AGENT_URI"}"
      worker = start_ready(environment: { name => value }, install:)
      # The log follows the ready file.
      wait_until(-> { "it is in the log:\n#{worker.log}" }) { complaints(worker).grep(problem).any? }
      expect(problems_of(worker.pid)).to match([problem])
    end
  end

  it "works if every variable that the gem reads is empty or wrong" do
    names = %w[SIDEKIQ_LIFECYCLE_SIGNAL_RELAY SIDEKIQ_LIFECYCLE_HTTP SIDEKIQ_LIFECYCLE_STOP_TIMEOUT
               ECS_CONTAINER_STOP_TIMEOUT ECS_AGENT_URI WATCHDOG_PID NO_COLOR]
    ["", "\n", "\xFF"].each_with_index do |value, index|
      worker = start_ready(name: "app#{index}", environment: names.to_h { |name| [name, value] })
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end
  end

  # On a busy machine the directory may be late.
  def complaints(worker)
    worker.log.lines.grep(/WARN.*sidekiq_lifecycle: /).grep_v(/does not answer, so its contents are out of date/)
  end

  # A trouble: how to cause it, what the gem reports, how to end it, and how Sidekiq is launched.
  troubles = {
    "is on a read-only file system" => {
      make: -> { mount(directory, "size=64k,ro") },
      said: " is on a read-only file system; mount a writable volume there or set another directory",
      mend: -> { remount(directory, "rw") }
    },
    "is on a full file system" => {
      make: -> { mount(directory) && fill(directory) },
      said: "/processes is on a full file system; make room there or set another directory",
      mend: -> { make_room(directory) }
    },
    "is a file" => {
      make: -> { File.write(directory, "precious") },
      said: " is not a directory; remove it or set another directory",
      untouched: -> { File.read(directory) == "precious" },
      mend: -> { File.unlink(directory) }
    },
    "is below a file" => {
      make: -> { FileUtils.rmdir(file("tmp")) && File.write(file("tmp"), "precious") },
      path: "tmp",
      said: " is not a directory; remove it or set another directory",
      untouched: -> { File.read(file("tmp")) == "precious" },
      mend: -> { File.unlink(file("tmp")) }
    },
    "is a link to elsewhere" => {
      make: -> { FileUtils.mkdir(file("elsewhere")) && File.symlink(file("elsewhere"), directory) },
      said: " is a symbolic link, which is not followed here; set the directory to the link's target",
      untouched: -> { File.symlink?(directory) && Dir.empty?(file("elsewhere")) },
      mend: -> { File.unlink(directory) }
    },
    "belongs to another user" => {
      make: -> { File.chmod(0o777, app) && FileUtils.mkdir(directory) },
      said: " is not accessible to uid 1000 (Permission denied); give that user write access or set " \
            "another directory",
      untouched: -> { Dir.empty?(directory) },
      mend: -> { File.chown(1000, 1000, directory) },
      launcher: %w[setpriv --reuid 1000 --regid 1000 --clear-groups]
    }
  }

  troubles.each do |trouble, how|
    it "that #{trouble} is one line in the log, and works once that is fixed" do
      instance_exec(&how[:make])
      worker = start(after: QUICK_HEARTBEAT, launcher: how.fetch(:launcher, []))
      said = "#{file(how.fetch(:path, "tmp/sidekiq"))}#{how[:said]}"
      expect(problems).to eq([said].inspect)
      beat_on
      expect(complaints(worker)).to contain_exactly(a_string_ending_with("sidekiq_lifecycle: #{said}\n"))
      expect(worker.log).to include("ready (#{directory}), but see the warnings\n")
      expect(check.first).to eq(1)
      expect(instance_exec(&how[:untouched])).to be(true) if how[:untouched]

      instance_exec(&how[:mend])
      wait_until("it works") { check == [0, "ready\n"] || worker.raise_if_ended }
      expect(problems).to eq("[]")
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(complaints(worker).size).to eq(1)
      expect(Dir.children(directory) - ["filling"]).to eq(["processes"])
    end
  end

  it "that is missing is created, with its parents, and everyone may read it" do
    worker = start(install: 'lifecycle.directory = "var/run/sidekiq"')
    wait_until("ready") { check("ready", "--dir", "var/run/sidekiq").first.zero? || worker.raise_if_ended }
    modes = %W[var/run/sidekiq var/run/sidekiq/ready var/run/sidekiq/processes/#{worker.pid}].map do |name|
      File.stat(file(name)).mode.to_s(8)
    end
    expect(modes).to eq(%w[40755 100644 100644])
    expect(File).not_to exist(directory)
  end

  %w[TSTP TERM].each do |signal|
    it "that fills up while Sidekiq runs is never ready after #{signal}" do
      mount(directory)
      worker = start_ready(after: QUICK_HEARTBEAT, timeout: 60)
      fill(directory)
      said = "#{directory}/processes is on a full file system; make room there or set another directory"
      wait_until("it is noticed") { complaints(worker).any? }
      expect(problems).to eq([said].inspect)
      beat = record(worker.pid)["beat_monotonic"]
      wait_until("heartbeats are still recorded") { record(worker.pid)["beat_monotonic"] > beat }
      expect(check("live")).to eq([0, "live\n"])
      expect(check).to eq([0, "ready\n"])

      start_job
      worker.signal(signal)
      wait_until("no longer ready") { !worker.ready_file? }
      wait_until("and the command knows why") { check.last.match?(/is (quiet|stopping)$/) }
      make_room(directory) if signal == "TSTP"
      release
      wait_until("drained") { File.exist?(drained_file) } if signal == "TSTP"
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(check).to eq([1, "not ready: process #{worker.pid} has stopped (exit 0, SIGTERM)\n"])
      expect(complaints(worker)).to contain_exactly(a_string_ending_with("sidekiq_lifecycle: #{said}\n"))
    end
  end

  it "that becomes read-only while Sidekiq runs works once it is writable again" do
    mount(directory)
    worker = start_ready(after: QUICK_HEARTBEAT)
    remount(directory, "ro")
    wait_until("it is noticed") { complaints(worker).any? }
    worker.signal(:TSTP)
    wait_until("it is quiet") { worker.log.include?("accepting new work") || worker.log.include?("Received TSTP") }
    remount(directory, "rw")
    wait_until("no longer ready") { !worker.ready_file? }
    await_drained(worker)
    expect(check).to eq([1, "not ready: process #{worker.pid} is quiet\n"])
    # About the record, and about the ready file that cannot be removed.
    expect(complaints(worker).size).to be_between(1, 2)
  end

  it "that is deleted while Sidekiq runs is created again at the next heartbeat" do
    worker = start_ready(after: QUICK_HEARTBEAT)
    FileUtils.rm_rf(file("tmp"))
    wait_until("it is back") { check == [0, "ready\n"] }
    worker.signal(:TSTP)
    wait_until("quiet") { !worker.ready_file? }
    FileUtils.rm_rf(file("tmp"))
    wait_until("it is back, and drained") { File.exist?(drained_file) }
    expect(worker).not_to be_ready_file
  end

  it "is $SIDEKIQ_LIFECYCLE_DIR, for Sidekiq and for the command" do
    environment = { "SIDEKIQ_LIFECYCLE_DIR" => "state" }
    worker = start(environment: environment)
    checked = -> { Open3.capture2e(environment, Sandbox::COMMAND, "check", chdir: app).first }
    wait_until("ready") { checked.call == "ready\n" || worker.raise_if_ended }
    expect(check.first).to eq(1)
    expect(File).not_to exist(directory)
  end

  describe "and a ready file elsewhere" do
    def start_with_ready_file(path, **options)
      start(install: "lifecycle.ready_file = #{path.inspect}", after: QUICK_HEARTBEAT, **options)
    end

    def goes_the_whole_way(worker, path)
      wait_until("ready") { (File.exist?(path) && check == [0, "ready\n"]) || worker.raise_if_ended }
      expect(File).not_to exist(ready_file)
      worker.signal(:TSTP)
      wait_until("quiet") { !File.exist?(path) }
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(complaints(worker)).to be_empty
    end

    it "is relative to the application, and its parents are made" do
      goes_the_whole_way(start_with_ready_file("tmp/pids/sidekiq_started"), file("tmp/pids/sidekiq_started"))
      expect(Dir).to be_empty(file("tmp/pids"))
    end

    it "is absolute" do
      goes_the_whole_way(start_with_ready_file(file("run/started")), file("run/started"))
    end

    it "is behind a link, like Capistrano's linked directories" do
      FileUtils.mkdir_p(file("shared/pids"))
      File.symlink(file("shared/pids"), file("tmp/pids"))
      goes_the_whole_way(start_with_ready_file("tmp/pids/started"), file("shared/pids/started"))
    end

    it "takes over an empty file that a script has touched" do
      File.write(file("tmp/started"), "")
      worker = start_with_ready_file("tmp/started", before: "sleep 1")
      wait_until("registered") { record(worker.pid) || worker.raise_if_ended }
      goes_the_whole_way(worker, file("tmp/started"))
    end

    it "leaves a foreign file alone, reports it once, and works once it is moved away" do
      foreign = file("tmp/started")
      File.write(foreign, "precious")
      worker = start_with_ready_file("tmp/started")
      said = "#{foreign} already exists and is not a ready file of sidekiq_lifecycle; move it away or set another " \
             "ready_file"
      wait_until("it works") { check == [0, "ready\n"] }
      wait_until("it is noticed") { complaints(worker).any? }
      expect(problems).to eq([said].inspect)
      beat_on
      expect(complaints(worker)).to contain_exactly(a_string_ending_with("sidekiq_lifecycle: #{said}\n"))
      expect(worker.log).to include("ready (#{directory}), but see the warnings\n")
      File.rename(foreign, file("moved"))
      wait_until("the ready file is there") { File.exist?(foreign) }
      File.write(foreign, "precious")
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect([file("moved"), foreign].map { |path| File.read(path) }).to eq(%w[precious precious])
    end

    it "is cleared by the next boot after a SIGKILL, even if that process has none" do
      killed = start_with_ready_file("tmp/started")
      wait_until("ready") { File.exist?(file("tmp/started")) || killed.raise_if_ended }
      killed.kill
      expect(check).to eq([1, "not ready: process #{killed.pid} is gone\n"])
      worker = start(after: 'note File.exist?("tmp/started").to_s', name: "next")
      await_ready(worker)
      expect(notes).to eq(["false"])
      expect(record(killed.pid)).to be_nil
    end

    it "is not cleared if another user's record names it" do
      killed = start_ready
      killed.kill
      theirs = file("theirs")
      File.write(theirs, "sidekiq_lifecycle ready\n")
      named = record(killed.pid).merge("ready_file" => theirs)
      path = file("tmp/sidekiq/processes", killed.pid.to_s)
      File.write(path, JSON.generate(named))
      File.chown(1000, 1000, path)
      start(name: "next").tap { |worker| wait_until("ready") { check.first.zero? || worker.raise_if_ended } }
      expect(File).to exist(theirs)
      expect(record(killed.pid)).to be_nil
    end
  end
end
