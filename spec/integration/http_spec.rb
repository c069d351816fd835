# frozen_string_literal: true

require "net/http"

RSpec.describe "the HTTP endpoint" do
  def free_port = RedisServer.free_port

  let(:port) { free_port }
  let(:setting) { "lifecycle.http = #{port}" }

  # [status, body]; nil while nobody listens.
  def get(path, method: Net::HTTP::Get)
    Net::HTTP.start("127.0.0.1", port, read_timeout: Waiting::LIMIT) do |http|
      response = http.request(method.new(path))
      [response.code.to_i, response.body]
    end
  rescue Errno::ECONNREFUSED
    nil
  end

  def wait_for(path, answer) = wait_until(-> { "#{path}: #{get(path).inspect}" }) { get(path) == answer }

  def complaints(worker) = worker.log.lines.grep(/WARN.*HTTP/)

  it "gives the answers of check, from boot to drain" do
    worker = start(install: setting, after: 'sleep 0.05 until File.exist?("boot may end")')
    wait_for("/live", [200, "live\n"])
    expect(get("/ready")).to eq([503, check.last])
    expect(get("/ready").last).to eq("not ready: process #{worker.pid} is booting\n")
    release("boot may end")
    wait_for("/ready", [200, "ready\n"])
    start_job
    worker.signal(:TSTP)
    wait_for("/ready", [503, "not ready: process #{worker.pid} is quiet\n"])
    expect(get("/")).to eq([200, "live\n"])
    expect(get("/drained")).to match([503, start_with("not drained: process #{worker.pid} is quiet")])
    release
    wait_for("/drained", [200, "drained\n"])
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect(get("/live")).to be_nil
  end

  it "is where the environment wants it, whatever the application has set" do
    start_ready(environment: { "SIDEKIQ_LIFECYCLE_HTTP" => "127.0.0.1:#{port}" },
                install: "lifecycle.http = #{free_port}")
    expect(get("/ready")).to eq([200, "ready\n"])
  end

  it "shows the status as the command does, without what changes from one moment to the next" do
    worker = start_ready(install: setting)
    answers = [get("/status").last, command("status", "--json").last].map do |json|
      JSON.parse(json).tap { |status| status["processes"].each { |process| process.delete("beat_age") } }
    end
    expect(answers.map { |status| status["processes"].first["record"]["http"] }).to all(eq("[::]:#{port}"))
    expect(answers.map { |status| status.merge("processes" => status["processes"].size) }.uniq.size).to eq(1)
    expect(answers.first["processes"].first["pid"]).to eq(worker.pid)
  end

  it "has metrics, and answers nothing but questions" do
    worker = start_ready(install: setting, timeout: 60)
    tag = record(worker.pid)["tag"]
    labels = %(pid="#{worker.pid}",tag="#{tag}",version="#{SidekiqLifecycle::VERSION}")
    metrics = get("/metrics").last.lines(chomp: true)
    expect(metrics).to include("sidekiq_lifecycle_ready{#{labels}} 1.0", "sidekiq_lifecycle_concurrency{#{labels}} 2.0",
                               %(sidekiq_lifecycle_state{#{labels},state="running"} 1.0), "# EOF")
    expect(get("/nothing").first).to eq(404)
    expect(get("/status", method: Net::HTTP::Post).first).to eq(405)
    expect(get("/ready", method: Net::HTTP::Head)).to eq([200, nil])

    start_job
    worker.signal(:TERM)
    wait_for("/ready", [503, "not ready: process #{worker.pid} is stopping\n"])
    wait_until("the job is named") { get("/status").last.include?('"class":"Evaluate"') }
    # The code is the argument of the job.
    said = [*%w[/status /metrics /drained].map { |path| get(path).last }, worker.log]
    expect(said).to all(satisfy { |text| !text.include?("File.exist") })
    release
    expect(worker.exit_code).to eq(0)
  end

  it "answers every request while a job holds the GVL" do
    hold_gvl(start_ready(install: setting))
    # A hundred a second for ten seconds; fewer where the machine is slow, because /live fails after a minute.
    began = Waiting.now
    statuses = Array.new(1000) do |number|
      sleep [began + (number / 100.0) - Waiting.now, 0].max
      Waiting.now - began < 40 ? get(%w[/live /ready /metrics][number % 3]).first : break
    end
    expect([*statuses].uniq - [200]).to be_empty
    expect(get("/live")).to eq([200, "live\n"])
    expect(notes).to eq(["lock wanted"])
  end

  it "is taken over by another Sidekiq of the directory, without a complaint" do
    workers = %w[one two].map do |name|
      start_ready(name:, install: setting, before: "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}")
    end
    wait_until("both are ready") { get("/status").last.scan('"state":"running"').size == 2 }
    beats = record(workers.last.pid)["beat"]
    wait_until("the next heartbeat") { record(workers.last.pid)["beat"] != beats }
    expect(workers.map { |worker| record(worker.pid)["http"] }).to eq(["[::]:#{port}", nil])
    Process.kill(:KILL, workers.first.pid)
    wait_until("the other answers") { record(workers.last.pid)["http"] == "[::]:#{port}" }
    wait_for("/ready", [200, "ready\n"])
    workers << start_ready(name: "three", install: setting, before: "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}")
    workers[1].signal(:TERM)
    expect(workers[1].exit_code).to eq(0)
    wait_for("/ready", [200, "ready\n"])
    wait_until("its record says so") { record(workers.last.pid)["http"] == "[::]:#{port}" }
    expect(workers.flat_map { |worker| complaints(worker) }).to be_empty
  end

  it "reports once that another program has the port, and serves when it is free" do
    server = TCPServer.new("0.0.0.0", port)
    worker = start_ready(install: setting, before: "require \"sidekiq/launcher\"\n#{QUICK_HEARTBEAT}")
    problem = "HTTP cannot be served at [::]:#{port}: another program has it; " \
              "set lifecycle.http to an address that is free"
    wait_until("it is reported") { problems_of(worker.pid).include?(problem) && complaints(worker).any? }
    expect(check).to eq([0, "ready\n"])
    server.close
    wait_for("/ready", [200, "ready\n"])
    wait_until("it is over") { problems_of(worker.pid).empty? }
    expect(complaints(worker).size).to eq(1)
  end

  # A child has a copy of every descriptor of the process.
  it "ends with its process, although a child that a job has forked lives on" do
    worker = start_ready(install: setting)
    push("Evaluate", "note fork { sleep }.to_s")
    child = wait_until("the child") { notes.first }.to_i
    Process.kill(:KILL, worker.pid)
    worker.exit_code
    expect(get("/live")).to be_nil
  ensure
    Process.kill(:KILL, child) if child
  end

  # The inode of the socket that a descriptor is, if it is one and still open.
  def socket(link)
    File.readlink(link)[/socket:\[(\d+)\]/, 1]
  rescue Errno::ENOENT
    nil
  end

  it "is not there unless it is asked for" do
    worker = start_ready
    expect(record(worker.pid)["http"]).to be_nil
    sockets = Dir["/proc/#{worker.pid}/task/*/fd/*"].filter_map { |link| socket(link) }
    listening = File.readlines("/proc/#{worker.pid}/net/tcp").concat(File.readlines("/proc/#{worker.pid}/net/tcp6"))
                    .map(&:split).select { |fields| fields[3] == "0A" }.map { |fields| fields[9] }
    expect(sockets & listening).to be_empty
  end

  # Sends a request a byte at a time; whether the server ends the connection meanwhile.
  def trickle
    TCPSocket.open("127.0.0.1", port) do |socket|
      "GET /live HTTP/1.1\r\nX: #{"x" * 100}".each_char do |character|
        socket.write(character)
        sleep 0.1
      end
    end
    false
  rescue Errno::ECONNRESET, Errno::EPIPE
    true
  end

  it "answers whatever else its clients do" do
    start_ready(install: setting)
    random = Random.new(RSpec.configuration.seed)
    silent = Array.new(50) { TCPSocket.new("127.0.0.1", port) }
    100.times do
      TCPSocket.open("127.0.0.1", port) do |socket|
        requests = "GET /live HTTP/1.1\r\n\r\n" * random.rand(1..50)
        socket.write(random.rand(3).zero? ? random.bytes(random.rand(1..9000)) : requests)
        socket.close_write if random.rand(2).zero?
        socket.read if random.rand(2).zero?
      rescue Errno::ECONNRESET, Errno::EPIPE
        nil
      end
    end
    expect(get("/ready")).to eq([200, "ready\n"])
    wait_until("one that sends slowly is cut off") { trickle }
    # The connections with the least time left gave way.
    expect(silent.count { |socket| socket.read_nonblock(1, exception: false).nil? }).to be >= 18
  ensure
    silent&.each(&:close)
  end
end
