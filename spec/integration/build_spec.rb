# frozen_string_literal: true

require "rbconfig"

RSpec.describe "building the gem" do
  let(:extconf) { File.expand_path("../../ext/sidekiq_lifecycle/extconf.rb", __dir__) }

  def build(environment, *command)
    Open3.capture2e(environment, *command, chdir: app)
  end

  # A program that says it has this version.
  def program(name, version)
    File.write(file(name), "#!/bin/sh\necho '#{name} #{version}'\n")
    File.chmod(0o755, file(name))
    file(name)
  end

  # What extconf.rb says, in one sentence.
  def refusal(environment, *command)
    output, status = build(environment, *command, RbConfig.ruby, extconf)
    expect(status).not_to be_success
    output.strip
  end

  it "reports in one sentence that cargo is missing" do
    expect(refusal({ "PATH" => "/nowhere" })).to match(
      /\Asidekiq_lifecycle: building this gem needs Rust 1.85 or later, and its cargo was not found; run: .+\z/
    )
  end

  it "reports in one sentence that Rust is too old" do
    old = program("cargo", "1.63.0 (fd9c4297c 2022-07-01)")
    expect(refusal({ "CARGO" => old })).to include("needs Rust 1.85 or later, and #{old} is 1.63; run: ")
    program("rustup", "1.27.1")
    expect(refusal({ "CARGO" => old, "PATH" => app })).to end_with("; run: rustup update")
  end

  it "reports in one sentence that a compiler or make is missing" do
    program("cargo", "1.85.0")
    expect(refusal({ "PATH" => app })).to include("needs a C compiler and make, and cc was not found; run: ")
    program("cc", "12.2.0")
    expect(refusal({ "PATH" => app })).to include("needs a C compiler and make, and make was not found; run: ")
  end

  {
    "Debian 12" => ["ID=debian\nVERSION_ID=\"12\"", "apt-get install -y build-essential cargo-web libclang-dev"],
    "Debian 13" => ["ID=debian\nVERSION_ID=\"13\"", "apt-get install -y build-essential cargo libclang-dev"],
    "Debian testing" => ["ID=debian", "apt-get install -y build-essential cargo libclang-dev"],
    "Ubuntu" => ["ID=ubuntu\nVERSION_ID=\"24.04\"",
                 "apt-get install -y build-essential rustup libclang-dev && rustup default stable"],
    "Alpine" => ["ID=alpine\nVERSION_ID=3.22.1", "apk add build-base cargo clang-dev"],
    "Fedora" => ["ID=fedora\nVERSION_ID=43", "dnf install -y gcc make cargo clang-devel"],
    "an older Debian" => ["ID=debian\nVERSION_ID=\"11\"", "curl --proto '=https' -sSf https://sh.rustup.rs | sh, " \
                                                          "and install a C compiler, make and libclang"]
  }.each do |name, (release, command)|
    it "names the command to run on #{name}" do
      File.write(file("os-release"), "NAME=x\n#{release}\n")
      script = 'mount --bind "$1" /etc/os-release && shift && PATH=/nowhere && exec "$@"'
      expect(refusal({}, "unshare", "--mount", "sh", "-c", script, "sh", file("os-release")))
        .to end_with("; run: #{command}")
    end
  end

  it "says on Heroku how Bundler takes the precompiled gem" do
    expect(refusal({ "PATH" => "/nowhere", "STACK" => "heroku-24" }))
      .to end_with("; run: bundle lock --add-platform x86_64-linux")
  end

  # Building as far as bindgen takes a minute, and is the same on every major, so one of them is enough.
  if Sandbox::MAJOR == 8
    it "reports in one sentence that libclang is missing", full: true do
      hide = 'for file in /usr/lib/*/libclang* /usr/lib/llvm-*/lib/libclang*; do mount --bind /dev/null "$file"; done'
      build = "#{hide}; #{RbConfig.ruby} #{extconf} && make"
      # Without optimizations it is there sooner.
      environment = { "CARGO_TARGET_DIR" => file("target"), "CARGO_PROFILE_RELEASE_OPT_LEVEL" => "0" }
      output, status = build(environment, "unshare", "--mount", "sh", "-c", build)
      expect(status).not_to be_success
      expect(output.lines.grep(/^sidekiq_lifecycle: /))
        .to contain_exactly("sidekiq_lifecycle: building this gem needs libclang, and it was not found; " \
                            "run: apt-get install -y build-essential cargo libclang-dev\n")
    end
  end

  describe "without the extension for this Ruby" do
    before do
      FileUtils.cp_r(File.expand_path("../../lib", __dir__), file("lib"))
      FileUtils.rm_rf(Dir[file("lib/sidekiq_lifecycle/{native.so,native.bundle}")])
    end

    def load_error
      output, status = build({}, RbConfig.ruby, "--disable=gems", "-I", "lib", "-r", "sidekiq_lifecycle", "-e", "")
      expect(status).not_to be_success
      output
    end

    it "says what to do if it was not built" do
      expect(load_error).to match(/native part cannot be loaded \(cannot load.*: rake compile \(LoadError\)/)
    end

    it "says which Rubies a precompiled gem serves, and how to build one" do
      %w[9.10 9.9].each { |version| FileUtils.mkdir_p(file("lib/sidekiq_lifecycle", version)) }
      expect(load_error).to include(
        "This precompiled gem is for Ruby 9.9, 9.10, and this is #{RUBY_VERSION}. To build the gem here, run: " \
        "gem install sidekiq_lifecycle --platform ruby; with Bundler, write in the Gemfile: " \
        "gem \"sidekiq_lifecycle\", force_ruby_platform: true (LoadError)"
      )
    end

    it "says why an extension of a precompiled gem cannot be loaded" do
      directory = file("lib/sidekiq_lifecycle", RUBY_VERSION[/\d+\.\d+/])
      FileUtils.mkdir_p(directory)
      File.write(File.join(directory, "native.so"), "not a library")
      expect(load_error).to match(/native part cannot be loaded \(.*native.so.*\)\. This precompiled gem is for Ruby/)
    end
  end

  it "installs the native command beside the extension, and a Ruby command that runs it" do
    native, = Open3.capture2("sidekiq-lifecycle", "path")
    expect(native.chomp).to eq(Sandbox::COMMAND)
    expect(File.binread(native.chomp, 4)).to eq("\x7FELF".b)
    _, status = Open3.capture2e("sidekiq-lifecycle", "check", "--dir", app)
    expect(status.exitstatus).to eq(1)
    { %w[chek] => [2, /unrecognized subcommand 'chek'/],
      %w[fleet quiet --sideways] => [2, /\Aerror: unexpected argument '--sideways'/],
      %w[generate --help] => [0, /^Usage: sidekiq-lifecycle generate/] }.each do |words, (code, answer)|
      output, status = Open3.capture2e("sidekiq-lifecycle", *words)
      expect([status.exitstatus, output]).to match([code, answer])
    end
  end
end
