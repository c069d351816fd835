# frozen_string_literal: true

require "rbconfig"

RSpec.describe "building the gem" do
  let(:gem_directory) { Gem.loaded_specs.fetch("sidekiq_lifecycle").full_gem_path }
  let(:extconf) { File.join(gem_directory, "ext/sidekiq_lifecycle/extconf.rb") }

  def build(environment, *command)
    Open3.capture2e(environment, *command, chdir: app)
  end

  it "reports in one sentence that cargo is missing" do
    output, status = build({ "PATH" => "/nowhere" }, RbConfig.ruby, extconf)
    expect(status).not_to be_success
    expect(output.strip).to eq("sidekiq_lifecycle: Rust's cargo is needed to build this gem and was not found; " \
                               "install Rust 1.85 or later (https://rustup.rs) and try again.")
  end

  it "reports in one sentence that Rust is too old" do
    old = file("cargo")
    File.write(old, "#!/bin/sh\necho 'cargo 1.63.0 (fd9c4297c 2022-07-01)'\n")
    File.chmod(0o755, old)
    output, status = build({ "CARGO" => old }, RbConfig.ruby, extconf)
    expect(status).not_to be_success
    expect(output).to include("Rust 1.85 or later is needed to build this gem, and #{old} is 1.63; update it")
  end

  # Building as far as bindgen takes a while and is the same on every major, so one of them is enough.
  if Sandbox::MAJOR == 8
    it "reports in one sentence that libclang is missing" do
      hide = 'for file in /usr/lib/*/libclang* /usr/lib/llvm-*/lib/libclang*; do mount --bind /dev/null "$file"; done'
      build = "#{hide}; #{RbConfig.ruby} #{extconf} && make"
      output, status = build({ "CARGO_TARGET_DIR" => file("target") }, "unshare", "--mount", "sh", "-c", build)
      expect(status).not_to be_success
      expect(output.lines.grep(/^sidekiq_lifecycle: /))
        .to contain_exactly(start_with("sidekiq_lifecycle: libclang is needed to build this gem and was not found"))
    end
  end

  it "says what to do if it was not built" do
    FileUtils.cp_r(File.expand_path("../../lib", __dir__), file("lib"))
    FileUtils.rm_f(Dir[file("lib/sidekiq_lifecycle/native.*")])
    output, status = build({}, RbConfig.ruby, "--disable-gems", "-I", file("lib"), "-e", "require 'sidekiq_lifecycle'")
    expect([status.success?, output]).to match([false, /native part cannot be loaded .*: rake compile \(LoadError\)/])
  end

  it "installs the native command beside the extension, and a Ruby command that runs it" do
    native, = Open3.capture2("sidekiq-lifecycle", "path")
    expect(native.chomp).to eq(Sandbox::COMMAND)
    expect(File.binread(native.chomp, 4)).to eq("\x7FELF".b)
    _, status = Open3.capture2e("sidekiq-lifecycle", "check", "--dir", app)
    expect(status.exitstatus).to eq(1)
    _, status = Open3.capture2e("sidekiq-lifecycle", "chek")
    expect(status.exitstatus).to eq(2)
  end
end
