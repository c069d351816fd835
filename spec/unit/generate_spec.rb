# frozen_string_literal: true

require "fileutils"
require "pty"
require "sidekiq_lifecycle/generate/command"
require "stringio"
require "tmpdir"

RSpec.describe SidekiqLifecycle::Generate do
  around do |example|
    Dir.mktmpdir do |directory|
      Dir.mkdir(@root = File.join(directory, "My Shop"))
      example.run
    end
  end

  let(:error) { described_class::Error }

  def put(name, text)
    File.join(@root, name).tap { |path| FileUtils.mkdir_p(File.dirname(path)) and File.write(path, text) }
  end

  def application(**given)
    given = { "environment" => "production", "queues" => [], "require" => "./app.rb", **given.transform_keys(&:to_s) }
    described_class::AppConfig.new(@root, given)
  end

  describe "what the application says" do
    it "is Sidekiq's own where there is no file" do
      expect(application).to have_attributes(name: "my-shop", timeout: 25, timeout_source: "Sidekiq's own",
                                             queues: ["default"], concurrency: nil, rails?: false)
    end

    it "is read as Sidekiq reads it: ERB, both kinds of keys, the environment's section on top" do
      put("config/sidekiq.yml", <<~YAML)
        :timeout: 30
        tag: Mail & More
        concurrency: <%= 3 + 4 %>
        :queues:
          - [critical, 2]
          - low,3
          - default
        production:
          :timeout: 55
        staging:
          timeout: 20
      YAML
      expect(application).to have_attributes(name: "mail-more", timeout: 55, queues: %w[critical low default],
                                             concurrency: 7, timeout_source: "config/sidekiq.yml")
      expect(application(environment: "staging").timeout).to eq(20)
      expect(application(environment: "test").timeout).to eq(30)
    end

    it "counts capsules" do
      put("config/sidekiq.yml.erb", <<~YAML)
        concurrency: 5
        capsules:
          single:
            concurrency: 1
            queues: [serial]
        queues: [default]
      YAML
      expect(application).to have_attributes(queues: %w[default serial], concurrency: 6)
      put("config/sidekiq.yml.erb", "capsules: { single: { concurrency: 1, queues: [serial] } }")
      expect(application).to have_attributes(queues: %w[default serial], concurrency: 6)
      expect(application(queues: ["mail"], concurrency: 2)).to have_attributes(queues: %w[mail serial], concurrency: 3)
    end

    it "is carried out where the application is, and where a Rails application is that -r names" do
      put("seconds", "33")
      put("config/sidekiq.yml", %(:timeout: <%= ENV["RAILS_ENV"] == "production" ? 60 : 5 %>))
      environment = ENV.to_h
      expect([application.timeout, ENV.to_h]).to eq([60, environment])
      put("config/sidekiq.yml", ":timeout: <%= File.read('seconds') %>")
      put("jobs/config/application.rb", "raise 'is not loaded'")
      put("jobs/config/sidekiq.yml", ":timeout: 100")
      expect(application.timeout).to eq(33)
      expect(application(require: "./jobs")).to have_attributes(timeout: 100, rails?: true)
      expect(application(config: File.join(@root, "config/sidekiq.yml"), require: "./jobs").timeout).to eq(33)
    end

    it "is what the command line says, where that says something, and comes into the command" do
      put("config/mail.yml", ":timeout: 30\n:queues: [mail]")
      given = application(config: "config/mail.yml", timeout: 60, queues: ["mail,2", "low"], concurrency: 7, tag: "P")
      expect(given).to have_attributes(timeout: 60, timeout_source: "-t", queues: %w[mail low], concurrency: 7,
                                       name: "p")
      expect(given.command).to eq(%w[bundle exec sidekiq -C config/mail.yml -e production -r ./app.rb -c 7 -g P -t 60
                                     -q mail,2 -q low])
      expect(application(require: "./my app.rb").command_line).to end_with(' -e production -r ./my\ app.rb')
    end

    it "leaves to Rails what is Rails'" do
      put("config/application.rb", "raise 'is not loaded'")
      expect(application(require: nil)).to have_attributes(rails?: true, command: %w[bundle exec sidekiq])
      expect(application(require: nil, environment: "staging").command).to eq(%w[bundle exec sidekiq -e staging])
    end

    {
      "- a\n- b" => "config/sidekiq.yml is not a list of settings, such as :timeout: 25",
      "production: true" => "config/sidekiq.yml has production: true, which is not a list of settings",
      "capsules: [a]" => 'config/sidekiq.yml has capsules: ["a"], which is not a list of settings',
      "capsules: { a: 1 }" => "config/sidekiq.yml has a: 1, which is not a list of settings",
      "capsules: { a: { concurrency: few } }" => 'config/sidekiq.yml has :concurrency: "few"; set it to a whole number',
      ":concurrency: [1]" => "config/sidekiq.yml has :concurrency: [1]; set it to a whole number above 0",
      ":timeout: soon" => 'config/sidekiq.yml has :timeout: "soon"; set it to a whole number above 0',
      ":timeout: 0" => "config/sidekiq.yml has :timeout: 0; set it to a whole number above 0",
      "<% exit 0 %>" => "config/sidekiq.yml cannot be read: SystemExit",
      "<%= Rails.env %>" => "config/sidekiq.yml cannot be read: NameError: uninitialized constant",
      "a: b: c" => "config/sidekiq.yml cannot be read: Psych::SyntaxError",
      "a: <% if %>" => "config/sidekiq.yml cannot be read: SyntaxError"
    }.each do |text, sentence|
      it "is refused as #{text.inspect}" do
        put("config/sidekiq.yml", text)
        expect { application }.to raise_error(error, a_string_starting_with(sentence))
      end
    end

    it "has to say what loads it" do
      expect { application(require: nil) }.to raise_error(error, /\Athere is no Rails application in .* -r /)
      expect { application(config: "gone.yml") }.to raise_error(error, /\Agone.yml cannot be read: Errno::ENOENT/)
      expect { described_class::AppConfig.new("/nowhere", {}) }
        .to raise_error(error, %r{\A/nowhere is not a directory; })
    end
  end

  describe "where it lies on its hosts" do
    it "is /srv, and its user is called as it is, where nothing else is said" do
      expect(application).to have_attributes(deploy_to: "/srv/my-shop", user: "my-shop")
    end

    # config/deploy.rb, config/deploy/production.rb => where, and whose
    {
      [%(set :application, "shop"), ""] => ["/var/www/shop", "my-shop"],
      ["set :repo_url, 'git@example.com:shop.git'", ""] => ["/var/www/my-shop", "my-shop"],
      ["set :deploy_to, '/opt/shop'", %(server "a", user: "deploy", roles: :worker)] => ["/opt/shop", "deploy"],
      [%(set :application, "shop"\nset(:deploy_to, "/opt/\#{fetch(:application)}")), ""] => ["/opt/shop", "my-shop"],
      [%(set :deploy_to, "/opt/shop"), %(set :deploy_to, "/live/shop"\nset :ssh_options, user: "app")] =>
        ["/live/shop", "app"],
      [%(set(:deploy_to, "/opt/shop".freeze) # whole), %(role :worker, %w{app@a.example.com app@b.example.com})] =>
        ["/opt/shop", "app"],
      [%(set :ssh_options, user: "all"\nset :deploy_to, '/s'), %(server "a", :user => "live")] => ["/s", "live"],
      [%(set :user, "deploy"\nset :deploy_to, "/s"), %(server "a", user: fetch(:user))] => ["/s", "deploy"],
      [%(set :slack, { user: "robot" }\nset :deploy_to, "/s"), <<~STAGE] => ["/s", "deploy"],
        server "db1", user: "postgres", roles: %w[db]
        role :worker, [
          "deploy@w1.example.com", # user: "root" would do too
          "deploy@w2.example.com"
        ]
      STAGE
      [%(set :deploy_to, "/s"), %(server "w1",\n  "user" => :deploy,\n  roles: %w[worker]\nserver "db", user: "pg")] =>
        ["/s", "deploy"],
      [%(# set :deploy_to, "/opt/shop"\n# server "a", user: "admin"), ""] => ["/var/www/my-shop", "my-shop"]
    }.each do |(deploy, stage), (place, user)|
      it "is what Capistrano's files say: #{deploy.inspect}, #{stage.inspect}" do
        put("config/deploy.rb", deploy)
        put("config/deploy/production.rb", stage)
        expect(application).to have_attributes(deploy_to: place, user:)
      end
    end

    it "is whose it is said to be, and refused where that is not plain" do
      expect(application(user: "ops").user).to eq("ops")
      { %(server "a", user: ENV["U"]) => /\Athe login user is known only when .* --user NAME/,
        %(server "a", user: DEPLOYER) => /\Athe login user is known only when/,
        %(server "a", user: "one"\nserver "b", user: "two") => /name several users, one, two; set .*--user NAME/ }
        .each do |stage, sentence|
        put("config/deploy/production.rb", "# Größe \xff\n#{stage}")
        expect { application.user }.to raise_error(error, sentence)
      end
    end

    it "is refused where it would not stand in a unit or in sudoers as what it is" do
      { '"/srv/x\\\\"' => /deploy_to to .*set it to an absolute path/, "'srv/x'" => /set it to an absolute path/,
        "'/srv/\u202Ex'" => /set it to an absolute path/ }.each do |path, sentence|
        put("config/deploy.rb", "set :deploy_to, #{path}")
        expect { application.deploy_to }.to raise_error(error, sentence)
      end
      ["", "-x", "a b", "a\nb", "#1000", "%wheel", "ALL!"].each do |user|
        expect { application(user:).user }.to raise_error(error, /is not a user name; set the user that runs/)
      end
      put("config/deploy/production.rb", %(server "a", user: "-x"))
      expect { application.user }.to raise_error(error, /"-x" is not a user name/)
    end

    it "is refused where only Capistrano itself can know it" do
      said = { deploy_to: ["-> { shared }", '"/opt/#{ENV.fetch("NAME")}"', '"/opt/" + fetch(:application)'], # rubocop:disable Lint/InterpolationCheck
               application: ['ENV["NAME"]', '"shop_#{fetch(:stage)}"'] } # rubocop:disable Lint/InterpolationCheck
      said.flat_map { |setting, all| all.map { |ruby| [setting, ruby] } }.each do |setting, ruby|
        put("config/deploy.rb", "set :#{setting}, #{ruby}")
        expect { application.deploy_to }.to raise_error(
          error, "Capistrano's files set :#{setting} to #{ruby}, which is known only when they are evaluated; " \
                 "write it as a plain string in config/deploy.rb"
        )
      end
    end
  end

  describe described_class::StopTimes do
    # -t => docker stop, ECS, Kubernetes
    { 8 => [15, 15, 25], 25 => [30, 30, 55], 26 => [35, 35, 60], 60 => [65, 65, 125],
      115 => [120, 120, 235] }.each do |timeout, (stop, ecs, kubernetes)|
      it "fits -t #{timeout}" do
        plan = described_class.new(timeout)
        expect([plan.stop, plan.ecs_stop, plan.drain_and_stop]).to eq([stop, ecs, kubernetes])
        expect([plan.stop, plan.ecs_stop]).to all(be >= timeout + 4)
        expect(plan.drain_and_stop).to be >= plan.drain + timeout + 4
      end
    end

    it "says what to do where ECS does not leave enough" do
      expect { described_class.new(116).ecs_stop }.to raise_error(
        SidekiqLifecycle::Generate::Error,
        "-t 116 and Sidekiq's own 4 s do not fit into the 120 s that ECS leaves a task on Fargate between SIGTERM " \
        "and SIGKILL: set -t to at most 115, and for longer jobs lifecycle.ecs_task_protection = true " \
        "(docs/ecs-task-protection.md)"
      )
    end
  end

  describe "what is written" do
    def files(target, **given) = described_class::Target.new(target, application(**given)).files

    it "carries words that a shell, a unit or a list would take for something else" do
      words = { require: %q(./a "b" $c 100% \d.rb) }
      expect(files("docker", **words)["Dockerfile.sidekiq"])
        .to include(%q("sidekiq", "-e", "production", "-r", "./a \"b\" $c 100% \\\\d.rb"]))
      expect(files("systemd", **words)["deploy/systemd/sidekiq.service"])
        .to include(%q(sidekiq -e production -r "./a \"b\" $$c 100%% \\\\d.rb"))
      role = YAML.safe_load(files("kamal", **words)["deploy/kamal/sidekiq.yml"]).dig("servers", "sidekiq")
      expect(Shellwords.split(role["cmd"]).last).to eq(words[:require])
    end

    it "keeps in a comment what stands there" do
      queues = ["a\nprivileged: true", "b: c"]
      expect(files("docker", queues:)["Dockerfile.sidekiq"]).to include("\n# queues a privileged: true, b: c.\n")
      %w[compose ecs kubernetes kamal].flat_map { |target| files(target, queues:).to_a }.each do |name, contents|
        expect { YAML.safe_load(contents) }.not_to raise_error if name.end_with?("yml", "yaml")
        expect(contents).not_to match(/^\s*privileged/)
      end
    end

    it "tells the worker what the platform leaves it" do
      %w[docker compose ecs kubernetes kamal].each do |target|
        files = files(target, timeout: 100)
        value = files.values.map { |text| text[/SIDEKIQ_LIFECYCLE_STOP_TIMEOUT(?:=|: |\s+value: )"?(\d+)/, 1] }
        expect(value.compact.uniq).to eq(["105"]), target
      end
      expect(files("systemd", timeout: 100).values.join).not_to include("SIDEKIQ_LIFECYCLE_STOP_TIMEOUT")
    end

    it "stays within what AWS documents, as long as it is written at all" do
      [1, 25, 115].each do |timeout|
        task = YAML.safe_load(files("ecs", timeout:)["deploy/ecs/task-definition.yaml"])["containerDefinitions"].first
        expect(task["stopTimeout"]).to be_between(timeout + 4, 120)
        expect(task["environment"])
          .to include("name" => "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT", "value" => task["stopTimeout"].to_s)
        check = task["healthCheck"]
        expect([check["interval"], check["timeout"], check["retries"], check["startPeriod"]])
          .to match([be_between(5, 300), be_between(2, 60), be_between(1, 10), be_between(0, 300)])
      end
      expect { files("ecs", timeout: 117) }.to raise_error(error)
    end

    it "gives Kubernetes time for preStop and for Sidekiq" do
      deployment = YAML.safe_load(files("kubernetes", timeout: 100)["deploy/kubernetes/sidekiq.yaml"])
      pod = deployment.dig("spec", "template", "spec")
      wait = pod["containers"].first.dig("lifecycle", "preStop", "exec", "command").last
      expect(pod["terminationGracePeriodSeconds"]).to be >= Integer(wait.delete_suffix("s")) + 104
    end

    it "lets Kubernetes ask over HTTP" do
      container = YAML.safe_load(files("kubernetes", probe: "http")["deploy/kubernetes/sidekiq.yaml"])
                      .dig("spec", "template", "spec", "containers", 0)
      probes = %w[startup liveness readiness].map { |name| container["#{name}Probe"]["httpGet"] }
      expect(probes).to eq(%w[ready live ready].map { |name| { "path" => "/#{name}", "port" => 7433 } })
      expect(container["env"]).to include("name" => "SIDEKIQ_LIFECYCLE_HTTP", "value" => "7433")
      expect(files("kubernetes").values.join).not_to include("HTTP")
    end

    it "knows another lifecycle directory" do
      stub_const("ENV", ENV.to_h.merge("SIDEKIQ_LIFECYCLE_DIR" => "/run/my sidekiq"))
      expect(files("docker")["Dockerfile.sidekiq"]).to include(%(\nENV SIDEKIQ_LIFECYCLE_DIR="/run/my sidekiq"\n))
      expect(files("systemd")["deploy/systemd/sidekiq.service"])
        .to include(%(\nEnvironment="SIDEKIQ_LIFECYCLE_DIR=/run/my sidekiq"\n))
      expect(files("capistrano")["lib/capistrano/tasks/sidekiq.rake"])
        .to include(%(set :sidekiq_lifecycle_dir, "/run/my sidekiq"\n))
      role = YAML.safe_load(files("kamal")["deploy/kamal/sidekiq.yml"]).dig("servers", "sidekiq")
      expect(role["env"]["clear"]).to include("SIDEKIQ_LIFECYCLE_DIR" => "/run/my sidekiq")
      stub_const("ENV", ENV.to_h.merge("SIDEKIQ_LIFECYCLE_DIR" => "/run/$HOME"))
      expect(files("docker")["Dockerfile.sidekiq"]).to include(%q(DIR="/run/\$HOME"))
      expect(files("systemd")["deploy/systemd/sidekiq.service"])
        .to include(%(\nEnvironment="SIDEKIQ_LIFECYCLE_DIR=/run/$HOME"\n))
      stub_const("ENV", ENV.to_h.merge("SIDEKIQ_LIFECYCLE_DIR" => "tmp/mine"))
      expect { files("systemd") }.to raise_error(error, /DIR is tmp.mine, which is another directory in each release/)
    end

    it "takes the Redis that the application has in Compose already" do
      worker = lambda do
        services = YAML.safe_load(files("compose")["compose.sidekiq.yml"])["services"]
        [services.keys, services["sidekiq"]]
      end
      expect(worker.call.first).to eq(%w[sidekiq redis])
      put("docker-compose.yml", "services: { exporter: { image: oliver006/redis_exporter } }")
      expect(worker.call.first).to eq(%w[sidekiq redis])
      put("compose.yml", "services: { web: { build: . }, cache: { image: 'valkey/valkey:9' } }")
      expect(worker.call.first).to eq(%w[sidekiq])
      expect(worker.call.last["depends_on"]).to eq("cache" => { "condition" => "service_started" })
      expect(worker.call.last["environment"]).to include("REDIS_URL" => "${REDIS_URL:-redis://cache:6379/0}")
      put("compose.yml", "services: { cache: { image: 'redis:7', healthcheck: { test: x } } }")
      expect(worker.call.last["depends_on"]).to eq("cache" => { "condition" => "service_healthy" })
      put("compose.yml", "services: [a")
      expect { files("compose") }.to raise_error(error, /\Acompose.yml cannot be read: Psych::SyntaxError/)
    end

    it "leaves to each of Capistrano's stages its own directory" do
      expect(files("capistrano")["lib/capistrano/tasks/sidekiq.rake"]).not_to include("sidekiq_lifecycle_dir")
      put("config/deploy.rb", %(set :deploy_to, "/srv/50%n"))
      expect(files("systemd")["deploy/systemd/sidekiq.service"]).to include("\nWorkingDirectory=/srv/50%%n/current\n")
    end

    it "gives Systems Manager a directory that its document takes" do
      ["/run/my sidekiq", "/run/$x"].each do |directory|
        stub_const("ENV", ENV.to_h.merge("SIDEKIQ_LIFECYCLE_DIR" => directory))
        expect { files("ssm") }.to raise_error(error, /\Athe lifecycle directory #{Regexp.escape(directory)} cannot be/)
      end
      stub_const("ENV", ENV.to_h.merge("SIDEKIQ_LIFECYCLE_DIR" => "/run/sidekiq"))
      document = YAML.safe_load(files("ssm")["deploy/ssm/quiet-sidekiq.yaml"])
      document["parameters"].each_value { |one| expect(one["default"]).to match(one["allowedPattern"]) }
      expect(document.dig("parameters", "directory", "default")).to eq("/run/sidekiq")
      # No validator looks at these.
      expect(document["mainSteps"]).to contain_exactly(
        include("action" => "aws:runShellScript", "precondition" => { "StringEquals" => %w[platformType Linux] },
                "inputs" => include("timeoutSeconds" => "{{ executionTimeout }}", "runCommand" => [a_kind_of(String)]))
      )
    end

    it "lets Systems Manager take 60 s to 48 h" do
      pattern = YAML.safe_load(files("ssm")["deploy/ssm/quiet-sidekiq.yaml"])
                    .dig("parameters", "executionTimeout", "allowedPattern")
      expect(%w[60 99 100 7200 99999 100000 169999 171999 172799 172800]).to all(match(pattern))
      %w[59 0 060 172801 180000 200000 1000000 2h].each { |wrong| expect(wrong).not_to match(pattern) }
    end
  end

  describe described_class::Writer do
    let(:out) { StringIO.new }

    def write(files, force: false, dry_run: false, input: StringIO.new)
      described_class.new(@root, force:, dry_run:, input:, out:).write(files)
    end

    # What there is, hidden files too: path => contents.
    def contents
      names = Dir.glob("**/*", File::FNM_DOTMATCH, base: @root).select { |name| File.file?(File.join(@root, name)) }
      names.to_h { |name| [name, File.read(File.join(@root, name))] }
    end

    # A terminal at which this is typed.
    def typing(text)
      PTY.open do |master, terminal|
        master.write(text)
        yield terminal
      end
    end

    it "writes what is not there, and leaves what is the same" do
      write({ "a/b" => "one\n", "c" => "two\n" })
      time = File.stat(File.join(@root, "c")).mtime
      write({ "a/b" => "one\n", "c" => "two\n" })
      expect(contents).to eq("a/b" => "one\n", "c" => "two\n")
      expect(out.string).to eq("wrote      a/b\nwrote      c\nunchanged  a/b\nunchanged  c\n")
      expect(File.stat(File.join(@root, "c"))).to have_attributes(mtime: time, mode: 0o100666 & ~File.umask)
    end

    it "writes nothing at all where something differs and nobody can be asked" do
      put("c", "mine\n")
      expect { write({ "a" => "one\n", "c" => "two\n" }) }.to raise_error(
        SidekiqLifecycle::Generate::Error,
        "c would change, and there is no terminal to ask on; nothing was written; --force replaces, " \
        "--dry-run only shows"
      )
      expect(contents).to eq("c" => "mine\n")
      expect(out.string).to eq("--- c\n+++ c (generated)\n@@ -1 +1 @@\n-mine\n+two\n")
    end

    it "replaces with --force, with the mode and the link that were there" do
      File.chmod(0o750, put("real", "mine\n"))
      File.symlink("real", File.join(@root, "c"))
      write({ "c" => "two\n" }, force: true)
      expect([File.lstat(File.join(@root, "c")).symlink?, contents["real"]]).to eq([true, "two\n"])
      expect(File.stat(File.join(@root, "real")).mode & 0o777).to eq(0o750)
      expect(out.string).to eq("replaced   c\n")
    end

    it "replaces no link that leads nowhere" do
      File.symlink("nowhere", File.join(@root, "c"))
      expect { write({ "c" => "two\n" }, force: true) }.to raise_error(/No such file.*; nothing of/)
      expect(File.readlink(File.join(@root, "c"))).to eq("nowhere")
    end

    it "shows with --dry-run, and writes nothing" do
      put("c", "mine\n")
      write({ "a" => "one\n", "c" => "two\n" }, dry_run: true, force: true)
      expect(contents).to eq("c" => "mine\n")
      expect(out.string).to include("would write a\n", "+one\n", "would replace c\n", "-mine\n+two\n")
    end

    { "y\nyes\n" => %w[two three], "n\ny\n" => %w[mine three],
      "what\ny\nn\n" => %w[two mine] }.each do |typed, expected|
      it "asks at a terminal, and is told #{typed.inspect}" do
        %w[c d].each { |name| put(name, "mine\n") }
        files = { "c" => "two\n", "d" => "three\n" }
        typing(typed) { |input| write(files, input:) }
        expect(contents.values_at("c", "d")).to eq(expected.map { |line| "#{line}\n" })
      end
    end

    it "stops where it is told to quit" do
      %w[c d].each { |name| put(name, "mine\n") }
      typing("y\nq\n") do |input|
        expect { write({ "c" => "two\n", "d" => "three\n" }, input:) }
          .to raise_error(SidekiqLifecycle::Generate::Error, "stopped at d; files written before remain")
      end
      expect(contents).to eq("c" => "two\n", "d" => "mine\n")
    end

    it "says what cannot be written, and leaves nothing behind" do
      put("a", "a file")
      expect { write({ "a/b" => "one\n" }) }
        .to raise_error(SidekiqLifecycle::Generate::Error, /File exists|Not a directory/)
      Dir.mkdir(File.join(@root, "c"))
      expect { write({ "c" => "one\n" }, force: true) }
        .to raise_error(SidekiqLifecycle::Generate::Error, /Is a directory/)
      expect(contents).to eq("a" => "a file")
    end
  end
end
