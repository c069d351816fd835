# frozen_string_literal: true

require "shellwords"

# Runs the commands of the page from top to bottom.
RSpec.describe "docs/fleet.md" do
  include FleetCommand

  let(:page) { File.read(File.expand_path("../../docs/fleet.md", __dir__)) }

  # [arguments, what is printed, the exit code] of every command on the page
  let(:commands) do
    page.scan(/^```console\n\$ bundle exec sidekiq-lifecycle fleet (.*?)\n(.*?)(?:\$ echo \$\?\n(\d+)\n)?```$/m)
        .map { |arguments, output, code| [arguments, output, code.to_i] }
  end

  # What has to happen before a command, by the command's beginning.
  let(:stage) do
    { "status" => -> { start_fleet },
      "wait drained --match 'worker-*' --timeout 2s" => -> { await_drain("worker-2") },
      "wait drained --match 'worker-*' --timeout 2h" => -> { release },
      "wake" => -> { supervise },
      "stop --match 'mailer-*'" => -> { @supervisor.kill.join } }
  end

  after { [@supervisor].compact.each(&:kill).each(&:join) }

  def start_fleet
    add_stale("worker-3:1:f00")
    write("shop.rb", gem: true)
    write("mail.rb", gem: false)
    parts = { "worker-1" => %w[shop.rb default], "worker-2" => %w[shop.rb reports], "mailer-1" => %w[mail.rb mailers] }
    @members = parts.to_h { |host, part| [host, [part, start_member(host, *part)]] }
    push("Evaluate", held_job)
    wait_until("all are there, and the job is seen") do
      running = processes.select { |process| process["state"] == "running" }
      running.size == 3 && running.sum { |process| process["busy"] } == 1
    end
  end

  def write(name, gem:)
    File.write(file(name), <<~RUBY)
      require "sidekiq"
      #{'require "sidekiq_lifecycle"' if gem}
      Sidekiq.configure_server do |config|
        config.redis = { url: #{redis.url(@database).inspect} }
        #{"SidekiqLifecycle.install(config)" if gem}
      end
      #{Worker::JOBS}
      #{QUICK_HEARTBEAT}
      #{KEEP_STALE}
    RUBY
  end

  # As if in its own container; Sidekiq uses $DYNO as the hostname.
  def start_member(host, application, queue)
    command = %W[sidekiq -r ./#{application} -c 2 -q #{queue} -g shop]
    container = %w[unshare --pid --fork --kill-child --mount-proc]
    environment = { "DYNO" => host, "SIDEKIQ_LIFECYCLE_DIR" => "life/#{host}" }
    start_program(*container, *command, name: host, environment:)
  end

  # Starts each process again when it has ended.
  def supervise
    @supervisor = Thread.new do
      loop do
        @members.each do |host, (part, process)|
          @members[host] = [part, start_member(host, *part)] unless process.running?
        end
        sleep 0.05
      end
    end
  end

  def processes = fleet_json("status")["processes"]

  def await_drain(host)
    wait_until("#{host} has drained") { processes.any? { |process| process["hostname"] == host && process["drained"] } }
  end

  # Replaces what differs each time: times and versions, and the width of columns.
  def normal(text)
    text.gsub(/\bEvaluate \h{24}/, "ReportJob 1a2b3c4d5e6f708192a3b4c5")
        .gsub(/\(worker-\d:\d+\)/, "(WORKER)").gsub(/\b(\d+(\.\d+)? (h|min|s|ms) ?)+(?=\W|$|ago)/, "TIME ")
        .gsub(/\b\d+\.\d+\.\d+\b/, "VERSION")
        .lines.map { |line| line.squeeze(" ").strip }.join("\n")
  end

  # Sidekiq 6 does not publish its version; the gem does.
  def here(text) = Sandbox::MAJOR > 6 ? text : text.sub(/^(mailer-.* ago) VERSION/, '\1 -')

  # The keys of the JSON, and the classes of its values.
  def shape(value)
    case value
    when Hash then value.transform_values { |inner| shape(inner) }
    when Array then value.map { |inner| shape(inner) }
    when true, false then :boolean
    else value.class
    end
  end

  def fields(heading)
    rows = page[/^\| #{Regexp.escape(heading)} \|.*?\n(?=\n)/m].lines.drop(2)
    rows.flat_map { |row| row.split("|")[1].scan(/`(\w+)`/).flatten }
  end

  it "shows what the commands print" do
    expect(commands.size).to be > 8
    commands.each do |arguments, output, code|
      stage.each { |beginning, prepare| prepare.call if arguments.start_with?(beginning) && stage.delete(beginning) }
      status, out, err = fleet(*Shellwords.split(arguments))
      what = "fleet #{arguments}\n#{err}"
      expect([what, status]).to eq([what, code])
      next expect(shape(JSON.parse(out))).to eq(shape(JSON.parse(output))), what if arguments.end_with?("--json")

      expect([what, normal(out)]).to eq([what, here(normal(output))])
    end
    expect(stage).to be_empty
  end

  it "lists every field of the JSON" do
    add_stale("worker-3:1:f00")
    expect(processes.first.keys).to match_array(fields("field of a process"))
    SimulatedFleet.new(redis, 1, database: @database)
    report = fleet_json("wait", "drained", "--timeout", "1s")
    expect(report.keys).to match_array(fields("field of an operation"))
    expect(report["progress"].keys).to match_array(fields("field of `progress`"))
    expect(report["progress"]["pending"].first.keys).to match_array(fields("field of a process"))
  end

  it "names the schema and the exit codes" do
    codes = page[/^## Exit codes.*?(?=^##)/m].scan(/^\| (\d+) \|/).flatten.map(&:to_i)
    require "sidekiq_lifecycle/fleet/cli/command"
    outcomes = SidekiqLifecycle::Fleet::CLI::Command::OUTCOMES.values
    expect(codes).to match_array([*outcomes, 2, 128 + Signal.list.fetch("TERM")])
    expect(page).to include("`schema` (#{SidekiqLifecycle::Fleet::CLI::Command::SCHEMA})")
  end
end
