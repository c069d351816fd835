# frozen_string_literal: true

# The gem for this machine where nothing can be built. script/platform_specs builds the gem and makes the system.
RSpec.describe "a platform gem in a system with Ruby and Sidekiq alone", if: ENV.key?("IN_ROOT") do
  include BareSystem

  def pid1(worker)
    wait_until("unshare has forked") { File.read("/proc/#{worker.pid}/task/#{worker.pid}/children")[/\d+/]&.to_i }
  end

  # As `docker exec`: [exit status, what it printed].
  def exec_in(worker, *command)
    enter = ["nsenter", "--target", pid1(worker).to_s, "--mount", "--pid", "--root", "--wd"]
    output, status = Open3.capture2e(*enter, *command)
    [status.exitstatus, output]
  end

  # As `bundle lock --add-platform` would with a network; Bundler sorts.
  def lock_platforms(others)
    lock = File.read(file("Gemfile.lock"))
    entry = lock[/^    sidekiq_lifecycle \(.*\n(?: {6}.*\n)+/]
    lock.sub!(entry) { [entry, *others.map { |platform| entry.sub(/-\S+\)/, "-#{platform})") }].sort.join }
    lock.sub!(/(?<=^PLATFORMS\n)  .*\n/) { |line| [line, *others.map { |platform| "  #{platform}\n" }].sort.join }
    # The checksums that Bundler 2.6 and later keep are not known without a network. A file without them is older.
    lock.sub!(/^CHECKSUMS\n(?: .*\n)+\n/, "")
    File.write(file("Gemfile.lock"), lock)
  end

  it "has nothing to build with" do
    tools = %w[cc gcc clang cargo rustc make git]
    expect(tools.select { |tool| bare("sh", "-c", "command -v #{tool}").first.zero? }).to be_empty
    expect(Dir["#{BareSystem::ROOT}/usr/include/*ruby*", "#{BareSystem::ROOT}/usr/lib/*/libclang*"]).to be_empty
  end

  it "is installed without a build, and loads" do
    expect(bare!("gem", "install", "--local", "--no-document", gem_file)).not_to match(/building native/i)
    expect(Dir[file("gems/extensions/**/*")]).to be_empty
    expect(bare!("ruby", "-r", "sidekiq_lifecycle", "-e", "print SidekiqLifecycle::Native::VERSION"))
      .to eq(SidekiqLifecycle::VERSION)
    native = bare!("sidekiq-lifecycle", "path").chomp
    expect(bare!(native, "--version")).to eq("sidekiq-lifecycle #{SidekiqLifecycle::VERSION}\n")
  end

  describe "the source gem" do
    before do
      repository = File.expand_path("../..", __dir__)
      Open3.capture2e("gem", "build", "--output", file("source.gem"), "sidekiq_lifecycle.gemspec", chdir: repository)
    end

    let(:install) { %w[gem install --local --no-document --ignore-dependencies /app/source.gem] }

    it "says in one sentence what to run, when it cannot be built" do
      status, output = bare(*install)
      expect(status).to eq(1)
      expect(output.lines.grep(/^sidekiq_lifecycle: /)).to contain_exactly(
        "sidekiq_lifecycle: building this gem needs Rust 1.85 or later, and its cargo was not found; run: " \
        "apt-get install -y build-essential cargo#{"-web" if Sandbox::MAJOR == 6} libclang-dev\n"
      )
    end

    it "says so too where Debian 12's own Rust is installed", if: Sandbox::MAJOR == 6 do
      status, output = bare(*install, root: BareSystem::OLD_RUST)
      expect(status).to eq(1)
      expect(output.lines.grep(/^sidekiq_lifecycle: /)).to contain_exactly(
        "sidekiq_lifecycle: building this gem needs Rust 1.85 or later, and cargo is 1.65; run: " \
        "apt-get install -y build-essential cargo-web libclang-dev\n"
      )
    end
  end

  # Installs it from a Gemfile.lock that lists several platforms, as at a deploy, which may not change the file.
  def bundle
    FileUtils.mkdir_p(file("vendor/cache"))
    FileUtils.cp(PlatformGem.new(PlatformGem::HERE).path, file("vendor/cache"))
    File.write(file("Gemfile"), <<~RUBY)
      source Gem.sources.first.uri.to_s
      gem "sidekiq"
      gem "sidekiq_lifecycle"
    RUBY
    bare!("bundle", "install", "--local", "--no-cache")
    lock_platforms(%w[arm64-darwin x86_64-linux-musl])
    FileUtils.rm_rf(file("gems"))
    bare!("env", "BUNDLE_FROZEN=true", "bundle", "install", "--local", "--no-cache")
  end

  it "is installed by Bundler from a Gemfile.lock that lists several platforms, without a network" do
    bundle
    expect(Dir[file("gems/extensions/**/*")]).to be_empty
    expect(bare!("bundle", "exec", "sidekiq-lifecycle", "--version")).to eq("sidekiq-lifecycle #{SidekiqLifecycle::VERSION}\n")
    expect(bare!("bundle", "exec", "ruby", "-r", "sidekiq_lifecycle", "-e", "print SidekiqLifecycle::Native::VERSION"))
      .to eq(SidekiqLifecycle::VERSION)
  end

  { "gem install" => [[], -> { bare!("gem", "install", "--local", "--no-document", gem_file) }],
    "Bundler" => [%w[bundle exec], -> { bundle }] }.each do |installer, (prefix, install)|
    it "gets a Sidekiq behind a shell from its boot to an orderly end, installed by #{installer}" do
      instance_exec(&install)
      worker = start_ready(launcher: BareSystem.launcher(app) + prefix)
      command = bare!(*prefix, "sidekiq-lifecycle", "path").chomp
      expect(exec_in(worker, command, "check")).to eq([0, "ready\n"])
      start_job
      # As `docker stop`: the shell would drop it.
      Process.kill(:TERM, pid1(worker))
      wait_until("stopping") { exec_in(worker, command, "check").last.include?("is stopping") }
      release
      expect(worker.exit_code).to eq(0)
      expect(notes).to eq(["job begins", "job ends"]), worker.log
    end
  end
end
