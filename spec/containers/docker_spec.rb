# frozen_string_literal: true

require "rexml/document"

# Builds Dockerfile.sidekiq as generate writes it, and runs its containers with Docker's own commands.
RSpec.describe "an image built from Dockerfile.sidekiq", :containers, skip: ShopImage.missing do
  # The script of the page; and what people do without a health check, which is to wait only until the container runs.
  careful = File.read(File.expand_path("../../docs/deploy/docker.md", __dir__))[/^```sh\n(#!.*?)^```/m, 1]
  careless = <<~SH
    old=$1 new=$2
    shift 2
    docker run -d --no-healthcheck --name "$new" "$@"
    until [ "$(docker inspect -f '{{.State.Status}}' "$new")" = running ]; do sleep 1; done
    docker stop "$old"
  SH
  scripts = { careless: ["The old worker is stopped as soon as the new container runs", careless],
              careful: ["The old worker is stopped when the new one is healthy", careful] }

  # The deploys take a while; the other examples run meanwhile.
  before(:context) do
    next if ShopImage.missing

    [RedisServer, ShopImage].each(&:shared)
    ShopImage.shared.worker_image
    @replacements = scripts.transform_values { |words| Replacement.new(ShopImage.shared, *words) }
    @replacements.transform_values! { |replacement| Thread.new { replacement.run } }
    @replacements.each_value { |thread| thread.report_on_exception = false }
  end

  after(:context) { @replacements&.each_value(&:kill) }

  let(:shop) { ShopImage.shared }
  let(:database) { Sandbox.next_database }

  def processes(name) = shop.docker("top", name, "-eo", "pid,args").lines.drop(1).map { |line| line.split(" ", 2).last }

  it "runs Sidekiq itself as PID 1, and is stopped with TERM, whatever the application's image sets" do
    expect(shop.inspect_value(shop.image, ".Config.StopSignal")).to eq("SIGQUIT")
    expect(shop.inspect_value(shop.worker_image, ".Config.StopSignal")).to eq("SIGTERM")
    command = JSON.parse(shop.inspect_value(shop.worker_image, "json .Config.Cmd"))
    expect(command).to eq(%w[bundle exec sidekiq -e production])
    # A health check would be a second process while it runs.
    name = shop.run("alone", database, "--no-healthcheck")
    shop.wait_until("ready") { shop.try("docker", "exec", name, "test", "-f", "tmp/sidekiq/ready").first.zero? }
    shop.wait_until("only Sidekiq") { processes(name) in [/\Asidekiq 7\S+ \[0 of 5 busy\]/] }
    expect(shop.record(name)).to include("pid" => 1, "signal_path" => include("term" => "arrives", "relay" => nil))
  end

  it "is starting, healthy, unhealthy once it is quiet, and exits with 0 after its job" do
    name = shop.run("life", database, "--stop-timeout", "60", BOOT_UNTIL: "/tmp/go")
    shop.wait_until("the first health check") { shop.inspect_value(name, "len .State.Health.Log").to_i.positive? }
    expect(shop.health(name)).to eq("starting")
    shop.docker("exec", name, "touch", "/tmp/go")
    shop.wait_for_health(name, "healthy")
    # Longer than three health checks, and longer than Docker's default stop timeout.
    shop.push(database, 1, 40)
    shop.wait_until("the job runs") { shop.noted?(database, "began", 1) }
    expect(shop.docker("exec", name, "sidekiq-lifecycle", "quiet")).to include("SIGTSTP")
    shop.wait_for_health(name, "unhealthy")
    shop.docker("stop", name)
    expect(shop.inspect_value(name, ".State.ExitCode")).to eq("0")
    expect(shop.noted?(database, "ended", 1)).to be(true)
  end

  it "is killed, and its job lost, if Docker's stop timeout is not set" do
    name = shop.run("hasty", database)
    shop.push(database, 1, 40)
    shop.wait_until("the job runs") { shop.noted?(database, "began", 1) }
    shop.docker("stop", name)
    expect(shop.inspect_value(name, ".State.ExitCode")).to eq("137")
    expect(shop.record(name)).to include("state" => "stopping", "drained" => false)
    expect(shop.queued(database)).to be_empty
  end

  it "stays as it is if the new container of the script of docs/deploy/docker.md does not get ready" do
    old = shop.run("good", database)
    code, said = shop.try("sh", "-c", careful, "replace-worker", old, shop.name("bad"), "--network", "host",
                          "-e", "REDIS_URL=redis://127.0.0.1:1/0", shop.worker_image)
    expect([code, said.lines.last]).to match([1, /-bad was 'exited \w+' and is gone; \S+-good works on/])
    expect(said).to include("Connection refused")
    expect(shop.inspect_value(old, ".State.Running")).to eq("true")
    expect(shop.try("docker", "inspect", shop.name("bad")).first).to eq(1)
  end

  # Each container has its own health check instead of the image's.
  it "is healthy by the checks that generate writes for ECS and Kamal, and stops within their timeouts" do
    ecs = shop.generated("ecs", "deploy/ecs/task-definition.yaml").fetch("containerDefinitions").first
    kind, line = ecs["healthCheck"]["command"]
    expect(kind).to eq("CMD-SHELL")
    kamal = shop.generated("kamal", "deploy/kamal/sidekiq.yml")
    role = kamal["servers"]["sidekiq"]
    expect(role["cmd"].split).to eq(JSON.parse(shop.inspect_value(shop.worker_image, "json .Config.Cmd")))
    options = { ecs: { "health-cmd" => line, "health-interval" => "#{ecs["healthCheck"]["interval"]}s" },
                kamal: role["options"] }
    workers = options.to_h do |platform, flags|
      [platform, shop.run(platform.to_s, database, *flags.flat_map { |flag, value| ["--#{flag}", value.to_s] })]
    end
    workers.each do |platform, name|
      expect(shop.inspect_value(name, "json .Config.Healthcheck.Test"))
        .to eq(JSON.generate(["CMD-SHELL", options[platform]["health-cmd"]]))
      shop.wait_for_health(name, "healthy")
    end
    [ecs["stopTimeout"], kamal["drain_timeout"]].zip(workers.values) do |seconds, name|
      shop.docker("stop", "-t", seconds.to_s, name)
      expect(shop.inspect_value(name, ".State.ExitCode")).to eq("0")
    end
  end

  it "is stopped by that script after its jobs if it works but does not get ready in time" do
    old = shop.run("spare", Sandbox.next_database)
    shop.push(database, 1, 25)
    # The first health check waits until the job runs.
    check = "until [ -e /tmp/began ]; do sleep 0.1; done; sidekiq-lifecycle check ready"
    health = ["--health-start-period", "1s", "--health-timeout", "3m", "--health-cmd", check]
    code, said = shop.try("sh", "-c", careful, "replace-worker", old, shop.name("mute"), *shop.options(database),
                          *health, "-e", "SIDEKIQ_LIFECYCLE_DIR=/proc/none", shop.worker_image)
    expect([code, said.lines.last]).to match([1, /-mute was 'running unhealthy' and is gone; \S+-spare works on/])
    expect(shop.noted?(database, "ended", 1)).to be(true)
  end

  it "stays, and nothing is left behind, if that script cannot start a container" do
    old = shop.run("old", Sandbox.next_database)
    { "misspelt" => [shop.name("misspelt"), shop.name("new")], "there already" => [old, old],
      "nonesuch" => [old, shop.name("new"), "--entrypoint", "nonesuch"] }.each do |what, words|
      code, said = shop.try("sh", "-c", careful, "replace-worker", *words, *shop.options(database), shop.worker_image)
      expect([code, said]).to match([be_between(1, 125), /#{what}/])
      expect(shop.try("docker", "inspect", shop.name("new")).first).to eq(1)
      expect(shop.inspect_value(old, ".State.Running")).to eq("true")
    end
  end

  it "is unhealthy when it is stuck", full: true do
    name = shop.run("stuck", database)
    shop.wait_for_health(name, "healthy")
    shop.docker("kill", "-s", "STOP", name)
    shop.wait_for_health(name, "unhealthy", limit: 180)
    expect(shop.inspect_value(name, ".State.Running")).to eq("true")
  end

  describe "replaced while jobs come in" do
    def replacement(name) = @replacements.fetch(name).value
    def timeline(name) = replacement(name).timeline

    it "always has a ready worker with the script of docs/deploy/docker.md" do
      expect(replacement(:careful).lost_or_doubled).to be_empty
      timeline = timeline(:careful)
      expect(timeline.gaps).to be_empty
      old, new = timeline.workers
      order = [new.ready, timeline.marks["new one is healthy"], old.stopping]
      expect(order).to eq(order.sort)
      restart = replacement(:careful).names.map { |name| shop.inspect_value(name, ".HostConfig.RestartPolicy.Name") }
      expect(restart).to eq(%w[no unless-stopped])
    end

    it "has a gap without the health check, during which jobs wait" do
      expect(replacement(:careless).lost_or_doubled).to be_empty
      timeline = timeline(:careless)
      expect(timeline.gaps.size).to eq(1)
      # Sidekiq stops fetching a moment after the signal has arrived.
      waited = timeline.stranded.drop_while { |job| job.worker == "old" }
      expect(waited.map(&:worker).uniq).to eq(["new"])
      booted = timeline.workers.last.started + Replacement::BOOT_SECONDS
      expect(waited.map(&:began)).to all(be > booted)
    end

    # By the workers' own heartbeats, through Redis. The records above come from their containers.
    it "is shown by fleet timeline with the same gap, or with none" do
      expect(replacement(:careful).fleet_timeline).to include("gaps" => [], "longest_gap" => nil, "interrupted" => 0)
      gap = timeline(:careless).gaps.first
      gaps = replacement(:careless).fleet_timeline["gaps"]
      expect(gaps).to match([include("lasts" => false, "seconds" => be_within(0.1).of(gap.end - gap.begin))])
    end

    it "is drawn" do
      expect(%i[careless careful].flat_map { |name| replacement(name).lost_or_doubled }).to be_empty
      subtitle = "Recorded by the specs: 5 jobs a second, #{Replacement::BOOT_SECONDS} s to load the application; " \
                 "no job lost, none run twice"
      svg = TimelinePicture.new([timeline(:careless), timeline(:careful)],
                                title: "Replacing a worker while jobs come in", subtitle:).to_svg
      expect(REXML::Document.new(svg).root.name).to eq("svg")
      FileUtils.mkdir_p(LaunchedContainer::DIRECTORY)
      File.write("#{LaunchedContainer::DIRECTORY}/blue-green.svg", svg)
      # As the workers themselves tell it. The first deploy has a gap, the second one none.
      replacement(:careless).draw_fleet_timeline("#{LaunchedContainer::DIRECTORY}/timeline.svg")
    end
  end
end
