# frozen_string_literal: true

RSpec.describe "the command fleet, when something fails" do
  include FleetCommand

  def simulate(size) = @simulate ||= SimulatedFleet.new(redis, size, database: @database)

  def call_redis(*words) = redis.call(*words, database: @database)

  # A heartbeat of new processes, or of the same ones again.
  def beat(*identities)
    @started ||= Time.now.to_f
    identities.each do |identity|
      info = JSON.generate(hostname: "new", started_at: @started)
      call_redis("HSET", identity, "info", info, "busy", 0, "beat", Time.now.to_f, "quiet", "false")
      call_redis("EXPIRE", identity, 60)
      call_redis("SADD", "processes", identity)
    end
  end

  it "continues if processes of a later batch have exited by themselves" do
    first, second, third = simulate(3).identities
    stopping = fleet_in_background("stop", "--batch", "1", "--timeout", "10m")
    signalled = ->(identity) { call_redis("EXISTS", "#{identity}-signals") == 1 }
    wait_until("the first is signalled") { signalled.call(first) || stopping.raise_if_ended }
    call_redis("SREM", "processes", first, second)
    wait_until("it waits for new ones") { stopping.log.include?("waiting for replacements") || stopping.raise_if_ended }
    call_redis("DEL", second, "#{second}:lifecycle") # a minute later
    wait_until("the third is signalled") do
      beat("new:1:a", "new:2:b") && (signalled.call(third) || stopping.raise_if_ended)
    end
    call_redis("SREM", "processes", third)
    wait_until("it ends") { beat("new:1:a", "new:2:b") && stopping.status }
    expect(stopping.exit_code).to eq(0)
    expect(stopping.log).to match(/^3 of 3 ready after #{DURATION}, batch 3 of 3; 1 exited before its turn$/)
    expect(signalled.call(second)).to be(false)
  end

  it "does not count a killed process as a replacement, however many follow one another" do
    first, second = simulate(2).identities
    stopping = fleet_in_background("stop", "--batch", "1", "--timeout", "10m")
    wait_until("the first is signalled") { call_redis("EXISTS", "#{first}-signals") == 1 || stopping.raise_if_ended }
    call_redis("SREM", "processes", first)
    number = 0
    wait_until("it waits for new ones", every: 0.3) do
      beat("new:#{number += 1}:a") && (stopping.log.include?("waiting for replacements") || stopping.raise_if_ended)
    end
    15.times { beat("new:#{number += 1}:a") && sleep(0.3) }
    stopping.signal(:INT)
    expect(stopping.exit_code).to eq(130)
    expect(stopping.log).to include("not reached: interrupted: 0 of 1 ready, batch 1 of 2; waiting for replacements")
    expect(call_redis("EXISTS", "#{second}-signals")).to eq(0)
  end

  it "works for a user without a name, as in a container" do
    simulate(1).beat(quiet: true)
    out, status = Open3.capture2e(surroundings, "setpriv", "--reuid", "12345", "--clear-groups", *line(%w[quiet]))
    expect([out, status.exitstatus]).to match([/^1 of 1 quiet after/, 0])
  end

  it "uses Sidekiq's own fields if it does not know the schema of the gem's" do
    identity = simulate(1).identities.first
    call_redis("SET", "#{identity}:lifecycle", '{"schema":9,"state":"napping"}')
    expect(fleet_json("status")["processes"]).to match([a_hash_including("state" => "running", "lifecycle" => nil)])
  end

  it "is silent if the reader of its output ends" do
    simulate(2000)
    reading = "#{line(%w[status]).join(" ")} | head -n 1"
    out, status = Open3.capture2e(surroundings, "bash", "-o", "pipefail", "-c", reading)
    expect([out.lines.size, status.exitstatus]).to eq([1, 1])
  end

  it "fails if its answer cannot be written" do
    simulate(1)
    ["status", "quiet --dry-run"].each do |arguments|
      status, err = fleet_into("/dev/full", arguments)
      expect([status, err]).to match([1, /\Asidekiq-lifecycle: the answer cannot be written: No space left/]), arguments
    end
  end

  def fleet_into(path, arguments)
    _, err, status = Open3.capture3(surroundings, "#{line([arguments]).join(" ")} > #{path}", chdir: app)
    [status.exitstatus, err]
  end

  it "prints nothing if Ctrl-C is pressed before it has started" do
    File.write(file("impatient.rb"), <<~RUBY)
      Kernel.prepend(Module.new do
        def require(name)
          Process.kill(:INT, Process.pid) && sleep if name == "sidekiq_lifecycle/fleet/cli/command"
          super
        end
      end)
    RUBY
    expect(fleet("status", environment: { "RUBYOPT" => "-r#{file("impatient.rb")}" })).to eq([130, "", ""])
  end

  it "takes patterns that are not ASCII where there is no locale" do
    call_redis("SADD", "processes", "wörker-1:1:f00")
    environment = { "LANG" => nil, "LC_ALL" => "POSIX" }
    code, out, err = fleet("status", "--match", "wörker-*", "--json", environment:)
    expect([code, err]).to eq([0, ""])
    expect(JSON.parse(out)["processes"].map { |process| process["identity"] }).to eq(["wörker-1:1:f00"])
  end

  it "removes control characters from names" do
    call_redis("SADD", "processes", "evil\e[2J:1:f00")
    call_redis("SADD", "processes", "bad\xff:1:f00".b)
    expect(fleet("status")[1]).to match(/^bad\uFFFD:1 +ghost/).and match(/^evil \[2J:1 +ghost/)
    expect(fleet_json("status")["processes"].map { |process| process["hostname"] })
      .to contain_exactly("bad\uFFFD", "evil\e[2J")
  end

  it "removes characters that reverse text or are invisible from names, tags and queues" do
    identity = simulate(1).tap(&:beat).identities.first
    info = { hostname: "web\u202E1", pid: 1, tag: "shop\u200B", queues: ["de\u2066fault"], concurrency: 1, labels: [] }
    call_redis("HSET", identity, "info", JSON.generate(info))
    call_redis("SADD", "processes", "ghost\uFEFF:1:f00")
    shown = fleet("status")[1]
    expect(shown).to match(/^web 1:1 .*shop .*de fault/).and match(/^ghost :1 +ghost/)
    expect(shown.scan(/[\p{Cf}\p{Zl}\p{Zp}]/)).to be_empty
  end

  it "reports jobs that are not UTF-8" do
    identity = simulate(1).tap { |fleet| fleet.beat(busy: 1) }.identities.first
    work = JSON.generate(run_at: 1.0, payload: { class: "bad?", jid: "1" }).b.sub("?", "\xff".b)
    call_redis("HSET", "#{identity}:work", "thread", work)
    report = fleet_json("wait", "drained", "--timeout", "1s")
    expect(report["progress"]["jobs"]).to match([a_hash_including("class" => "bad\uFFFD", "process" => identity)])
  end

  describe "a webhook" do
    after { @webhook&.stop }

    it "that hangs does not hold back the answer when the command is interrupted" do
      simulate(1).beat(quiet: true)
      @webhook = Webhook.new(status: nil)
      quieting = fleet_in_background("quiet", "--webhook", @webhook.url)
      wait_until("it is signalled") { call_redis("EXISTS", "#{simulate(1).identities.first}-signals") == 1 }
      wait_until("it is interrupted", every: 0.2) { quieting.status || (quieting.signal(:INT) && nil) }
      expect(quieting.log).to match(/^(1 of 1 quiet after|not reached: interrupted)/)
      expect(quieting.log).not_to include("Interrupt")
    end

    it "gets no characters that reverse text" do
      simulate(1).beat(quiet: true)
      @webhook = Webhook.new
      fleet("wait", "quiet", "--by", "me\u202E\u200B!", "--webhook", @webhook.url)
      expect(@webhook.messages.map { |message| message["text"] }).to all(include("me  !"))
    end

    it "gets a short message, however large the fleet is" do
      simulate(500)
      @webhook = Webhook.new
      expect(fleet("wait", "drained", "--timeout", "1s", "--webhook", @webhook.url).first).to eq(124)
      expect(@webhook.messages.map { |message| message["progress"].key?("pending") }).to eq([false, false])
    end
  end
end
