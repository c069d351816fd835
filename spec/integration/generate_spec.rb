# frozen_string_literal: true

require "net/http"
require "sidekiq_lifecycle/generate/target"
require "yaml"

RSpec.describe "the command generate" do
  examples = File.expand_path("../../examples", __dir__)

  before { FileUtils.cp_r(File.join(examples, "shop"), file("shop")) }

  after { ENV.delete("SIDEKIQ_LIFECYCLE_DIR") }

  # The gem's own command, as a user calls it: [exit status, standard output, standard error].
  def generate(*arguments)
    out, err, status = Open3.capture3("sidekiq-lifecycle", "generate", *arguments, chdir: app, stdin_data: "")
    [status.exitstatus, out, err]
  end

  # The files below a directory: path => contents.
  def tree(directory)
    names = Dir.glob("**/*", base: directory).select { |name| File.file?(File.join(directory, name)) }
    names.to_h { |name| [name, File.read(File.join(directory, name))] }
  end

  # The other files of an example, which `generate` reads: Capistrano's own.
  define_method(:by_hand_of) do |target|
    return {} unless target == "capistrano"

    tree(File.join(examples, target)).slice("Capfile", "config/deploy.rb", "config/deploy/production.rb")
  end

  def generated(name) = YAML.safe_load_file(file("shop", name))

  targets = Dir.children(SidekiqLifecycle::Generate::Target::TEMPLATES).sort

  targets.each do |target|
    it "writes examples/#{target}, and does nothing the second time" do
      before = tree(file("shop"))
      by_hand = by_hand_of(target)
      by_hand.each do |name, contents|
        FileUtils.mkdir_p(File.dirname(file("shop", name)))
        File.write(file("shop", name), contents)
      end
      expect(generate(target, "--root", "shop")).to match([0, /\A(wrote +\S+\n)+\z/, ""])
      expect(tree(file("shop")).except(*before.keys)).to eq(tree(File.join(examples, target)))
      expect(generate(target, "--root", "shop")).to match([0, /\A(unchanged +\S+\n)+\z/, ""])
    end
  end

  it "writes examples/kubernetes-http" do
    before = tree(file("shop"))
    expect(generate("kubernetes", "--root", "shop", "--probe", "http").first).to eq(0)
    expect(tree(file("shop")).except(*before.keys)).to eq(tree(File.join(examples, "kubernetes-http")))
  end

  it "lists its targets in the help" do
    help = command("generate", "--help").last[/^Arguments:.*?^Options:/m]
    expect(help.scan(/^ +- (\w+):/).flatten).to match_array(targets)
  end

  it "reports misuse, missing files and differences" do
    expect(generate("heroku")).to match([2, "", /invalid value 'heroku'/])
    expect(generate("docker", "--root", "nowhere")).to eq(
      [1, "", "sidekiq-lifecycle: nowhere is not a directory; point --root to the application's root\n"]
    )
    { ["--user", "root ALL"] => /a user name starts with/,
      ["--user", "x\ny ALL=(ALL) NOPASSWD: ALL"] => /a user name starts with/,
      ["-e", "production\nExecStartPre=/bin/evil"] => /an environment name consists of/,
      ["-q", "a\nb"] => /it contains a control character/ }.each do |arguments, sentence|
      %w[systemd kubernetes].each do |target|
        expect(generate(target, "--root", "shop", *arguments)).to match([2, "", sentence])
      end
    end
    ENV["SIDEKIQ_LIFECYCLE_DIR"] = "/run/x\nUser=root"
    %w[systemd docker kamal].each do |target|
      expect(generate(target, "--root", "shop"))
        .to match([2, "", /SIDEKIQ_LIFECYCLE_DIR is .*; set it to a path without control characters/])
    end
    ENV.delete("SIDEKIQ_LIFECYCLE_DIR")
    expect(generate("ecs", "--root", "shop", "-t", "200"))
      .to match([1, "", /: -t 200 and Sidekiq's own 4 s do not fit/])
    File.write(file("shop/Dockerfile.sidekiq"), "FROM mine\n")
    expect(generate("docker", "--root", "shop")).to match(
      [1, /^-FROM mine$/, /: Dockerfile.sidekiq would change, and there is no terminal to ask on; nothing was written/]
    )
    expect(command("generate", "docker")).to match([2, /run it with Ruby: bundle exec sidekiq-lifecycle generate …/])
  end

  describe "the sample application" do
    # The image has the native command on its PATH.
    def surroundings
      { "REDIS_URL" => redis.url(@database), "PATH" => "#{File.dirname(Sandbox::COMMAND)}:#{ENV.fetch("PATH")}" }
    end

    def directory = file("shop/tmp/sidekiq")

    # Like the image's CMD, but without bundler, which has no Gemfile.lock here.
    def start_shop(environment = {})
      generate("docker", "--root", "shop")
      words = JSON.parse(File.read(file("shop/Dockerfile.sidekiq"))[/^CMD (.*)$/, 1])
      start_program(*words.drop(2), chdir: file("shop"), environment: surroundings.merge(environment))
    end

    # As a platform runs it inside the container: [exit status, what it printed].
    def inside(*words)
      out, status = Open3.capture2e(surroundings, *words, chdir: file("shop"))
      [status.exitstatus, out]
    end

    def wait_ready(worker)
      wait_until("ready") { File.exist?(File.join(directory, "ready")) || worker.raise_if_ended }
    end

    def begin_parcel(worker)
      push("Parcel", 7, 3, queue: "critical")
      wait_until("the parcel is being packed") { worker.log.include?("packing order 7") }
    end

    it "is healthy for ECS when it is ready, and also while it is quiet with a job" do
      generate("ecs", "--root", "shop")
      kind, line = generated("deploy/ecs/task-definition.yaml").dig("containerDefinitions", 0, "healthCheck", "command")
      expect(kind).to eq("CMD-SHELL")
      healthy = -> { inside("sh", "-c", line).first.zero? }
      expect(healthy.call).to be(false)
      worker = start_shop
      wait_ready(worker)
      expect(healthy.call).to be(true)
      worker.signal(:TSTP)
      wait_until("quiet") { !File.exist?(File.join(directory, "ready")) }
      expect(inside("sidekiq-lifecycle", "check", "ready").first).to eq(1)
      expect(healthy.call).to be(true)
      worker.signal(:KILL)
      worker.exit_code
      expect(healthy.call).to be(false)
    end

    it "answers Kubernetes' probes, and its preStop waits for the job" do
      generate("kubernetes", "--root", "shop")
      container = generated("deploy/kubernetes/sidekiq.yaml").dig("spec", "template", "spec", "containers", 0)
      probe = ->(name) { inside(*container.dig("#{name}Probe", "exec", "command")).first }
      expect(probe.call("startup")).to eq(1)
      worker = start_shop
      wait_ready(worker)
      expect(%w[startup liveness readiness].map(&probe)).to eq([0, 0, 0])
      begin_parcel(worker)
      code, said = inside(*container.dig("lifecycle", "preStop", "exec", "command"))
      expect([code, said.lines.last]).to match([0, /\Adrained after /])
      expect(worker.log).to include("order 7 is on its way")
      expect(%w[liveness readiness].map(&probe)).to eq([0, 1])
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
    end

    it "answers Kubernetes' probes over HTTP" do
      generate("kubernetes", "--root", "shop", "--probe", "http")
      container = generated("deploy/kubernetes/sidekiq.yaml").dig("spec", "template", "spec", "containers", 0)
      asked = %w[startup liveness readiness].map { |name| container.dig("#{name}Probe", "httpGet") }
      port = container["env"].to_h(&:values).fetch("SIDEKIQ_LIFECYCLE_HTTP")
      expect(asked.map { |probe| probe["port"].to_s }).to all(eq(port))
      # Other specs may use that port.
      port = RedisServer.free_port
      worker = start_shop("SIDEKIQ_LIFECYCLE_HTTP" => port.to_s)
      wait_ready(worker)
      expect(asked.map { |probe| Net::HTTP.get(URI("http://127.0.0.1:#{port}#{probe["path"]}")) })
        .to eq(%W[ready\n live\n ready\n])
    end

    it "is quieted by Systems Manager's document, which fails if there is no Sidekiq" do
      generate("ssm", "--root", "shop")
      script = generated("deploy/ssm/quiet-sidekiq.yaml").dig("mainSteps", 0, "inputs", "runCommand").join("\n")
      parameters = { "command" => Sandbox::COMMAND, "executionTimeout" => "3600", "directory" => directory }
      script = script.gsub(/\{\{ (\w+) \}\}/) { parameters.fetch(Regexp.last_match(1)) }
      expect(inside("sh", "-c", script)).to match([1, /no Sidekiq has registered there/])
      worker = start_shop
      wait_ready(worker)
      begin_parcel(worker)
      code, said = inside("sh", "-c", script)
      expect([code, said.lines.last]).to match([0, /\Adrained after /])
      expect(worker.log).to include("order 7 is on its way")
    end
  end
end
