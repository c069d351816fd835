# frozen_string_literal: true

# What a SIGKILL leaves behind, and what the next process does with it.
RSpec.describe "jobs of a killed process" do
  let(:recover) { "lifecycle.recover_jobs = true" }

  def recorders = Dir[file("tmp/sidekiq/recorders/*-*")]
  def files_of_jobs = Dir[file("tmp/sidekiq/recorders/*-*.*")]
  def queue = redis.call("LRANGE", "queue:default", 0, -1, database: @database).map { |job| JSON.parse(job) }
  def dead = redis.call("ZRANGE", "dead", 0, -1, database: @database)

  def history
    redis.call("LRANGE", "sidekiq_lifecycle:lost", 0, -1, database: @database).map { |line| JSON.parse(line) }
  end

  def begun(name = "job") = notes.count("#{name} begins")

  # A killed process leaves its ready file, so that says nothing about its successor.
  def start_next(**options)
    @next = @next.to_i + 1
    start(install: recover, name: "next#{@next}", **options).tap do |worker|
      wait_until("it runs", &-> { worker.log.include?(KilledRounds::RUNS) || worker.raise_if_ended })
    end
  end

  def kill(worker, group: false)
    Process.kill(:KILL, group ? -worker.pid : worker.pid)
    worker.exit_code
  end

  it "go back to the head of their queues, before the next process of the directory takes any" do
    worker = start_ready(install: recover, concurrency: 1)
    start_job("first")
    push("Evaluate", held_job("second"))
    kill(worker)
    expect(recorders.size).to eq(1)
    expect(File.stat(recorders.first).mode & 0o777).to eq(0o600)
    successor = start_next(concurrency: 1)
    wait_until("the first again") { begun("first") == 2 }
    expect(begun("second")).to eq(0)
    line = /process #{worker.pid} was killed while it had Evaluate \h{24}, which is at the head of default/
    expect(successor.log.scan(line).size).to eq(1)
    expect(history).to match([include("class" => "Evaluate", "queue" => "default", "process" => "process #{worker.pid}",
                                      "outcome" => "put_back")])
    wait_until("the old recorder is gone") { recorders.size == 1 }
    release
    wait_for_note("second ends")
    successor.signal(:TERM)
    expect(successor.exit_code).to eq(0)
    expect(recorders).to be_empty
    expect(notes.tally).to include("first begins" => 2, "first ends" => 1, "second ends" => 1)
  end

  it "are lost as ever where the setting is off, and nothing is written" do
    worker = start_ready
    start_job
    kill(worker)
    start_next(install: "")
    expect(Dir.exist?(file("tmp/sidekiq/recorders"))).to be(false)
    expect([queued, begun]).to eq([0, 1])
  end

  it "are put back by a sibling at its heartbeat" do
    worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
    start_job
    sibling = start_next(before: QUICK_HEARTBEAT)
    kill(worker)
    wait_until("the job again") { begun == 2 }
    wait_until("its log says so") { sibling.log.include?("process #{worker.pid} was killed while it had") }
    release
  end

  it "are those that Sidekiq was done with no more, whatever became of them" do
    worker = start_ready(install: recover, timeout: 3)
    push("Evaluate", "note 'ended'")
    push("Evaluate", "note 'raised'; raise 'an error'")
    push("NoSuchClass")
    redis.call("LPUSH", "queue:default", "no JSON", database: @database)
    wait_until("both were tried") { notes.size == 2 && retries == 2 && dead.size == 1 }
    start_job("interrupted")
    worker.signal(:TERM)
    expect(worker.exit_code).to eq(0)
    expect([recorders, queued]).to eq([[], 1])
  end

  it "are kept if Redis is away when Sidekiq's timeout cuts them off" do
    own_redis
    worker = start_ready(install: recover, timeout: 1)
    start_job
    redis.stop
    worker.signal(:TERM)
    worker.exit_code
    expect(recorders.size).to eq(1)
    kept = "a job could not be pushed back to Redis and waits in the flight recorder for the next process ("
    expect(problems_of(worker.pid)).to include(start_with(kept))
    redis.start
    start_next
    wait_until("the job again") { begun == 2 }
    release
  end

  it "wait for a Redis that is away, and run then" do
    own_redis
    worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
    start_job
    kill(worker)
    successor = start_next(before: QUICK_HEARTBEAT, after: <<~RUBY)
      class SidekiqLifecycle::PutBack
        prepend(Module.new { def call(...) = File.exist?("back") ? super : raise(Errno::ECONNREFUSED) })
      end
    RUBY
    wait_until("it says so") { successor.log.include?("cannot put back jobs") }
    expect(begun).to eq(1)
    release("back")
    wait_until("the job again") { begun == 2 }
    wait_until("its log says so") { successor.log.scan("which is at the head of").size == 1 }
    release
  end

  it "that kill each process go to the dead set after the limit, and say why" do
    push("Evaluate", "note 'again'; Process.kill(:KILL, Process.pid); sleep")
    3.times do |round|
      worker = start(install: "#{recover}; lifecycle.recover_limit = 2")
      worker.exit_code
      expect(notes.size).to eq(round + 1)
    end
    worker = start_next(install: "#{recover}; lifecycle.recover_limit = 2")
    said = "which was put back 2 times before, and is in the dead set now"
    wait_until("its log says so") { worker.log.include?(said) }
    expect(JSON.parse(dead.first)).to include("lifecycle_put_back" => 2, "error_class" => "SidekiqLifecycle::Killed",
                                              "error_message" => "3 processes were killed while they ran it")
    expect([notes.size, queued]).to eq([3, 0])
  end

  it "are not touched by a child that a job has forked" do
    worker = start_ready(install: recover)
    push("Evaluate", <<~RUBY)
      fork { Sidekiq::BasicFetch::UnitOfWork.new("queue:default", "{}").acknowledge; exit! } or exit!
      Process.wait
      work = ObjectSpace.each_object(Sidekiq::BasicFetch::UnitOfWork).find { |work| work.lifecycle_token }
      Process.wait(fork { work.acknowledge; exit! })
      note "job begins"
      sleep
    RUBY
    wait_for_note("job begins")
    kill(worker)
    start_next
    wait_until("the job again") { begun == 2 }
  end

  it "are only named if another fetch than Sidekiq's own fetches them" do
    fetch = <<~RUBY
      class OwnFetch < Sidekiq::BasicFetch
        def retrieve_work
          work = super
          work if work && Sidekiq.redis { |redis| redis.lpush("copy", work.job) }
        end
      end
      Sidekiq.configure_server do |config|
        if config.respond_to?(:capsules)
          config[:fetch_class] = OwnFetch
        else
          options = config.respond_to?(:[]) ? config : config.options
          options[:fetch] = OwnFetch.new(options)
        end
      end
    RUBY
    worker = start_ready(install: recover, after: fetch)
    expect(worker.log).to include("jobs that a SIGKILL takes are only named: OwnFetch fetches them")
    start_job
    kill(worker)
    successor = start_next(after: fetch)
    line = /process #{worker.pid} was killed while it had Evaluate \h{24}; OwnFetch keeps its own copy/
    expect(successor.log).to match(line)
    expect([queued, begun]).to eq([0, 1])
  end

  describe "whose reply has just arrived" do
    # Its threads wait for a job for longer than an example takes.
    let(:patient) do
      "Sidekiq::BasicFetch.send(:remove_const, :TIMEOUT); Sidekiq::BasicFetch::TIMEOUT = 600"
    end

    def in_hand = JSON.parse(command("status", "--json").last).dig("processes", 0, "in_hand")
    def threads_that_fetch = redis.call("CLIENT", "LIST").scan(/ flags=b db=#{@database} .* cmd=brpop /).size

    it "are recorded while another job holds the GVL" do
      worker = start_ready(install: recover, before: RARE_HEARTBEAT, after: patient, concurrency: 2)
      wait_until("both threads fetch") { threads_that_fetch == 2 }
      lock = hold_gvl(worker)
      push("Evaluate", "note 'it runs'")
      wait_until("both are in hand") { in_hand.size == 2 }
      kill(worker)
      lock.close
      expect(notes).not_to include("it runs")
      start_next
      wait_for_note("it runs")
    end
  end

  it "may be of any size" do
    worker = start_ready(install: recover, concurrency: 5)
    sizes = [10, 5000, 100_000, 2_000_000]
    sizes.each do |size|
      push("Evaluate", "#{held_job("job #{size}")} # #{"x" * size}")
      wait_for_note("job #{size} begins")
    end
    expect(files_of_jobs.map { |path| File.stat(path).mode & 0o777 }).to eq([0o600]), "the recorder has no room for it"
    kill(worker)
    successor = start_next(concurrency: 5)
    sizes.each { |size| wait_until("job #{size}") { begun("job #{size}") == 2 } }
    wait_until("those of the killed one are gone") { recorders.size == 2 && files_of_jobs.size == 1 }
    release
    sizes.each { |size| wait_for_note("job #{size} ends") }
    successor.signal(:TERM)
    expect(successor.exit_code).to eq(0)
    expect(recorders).to be_empty
  end

  it "are reported if the recorder has no room for one, and the disk is full" do
    mount(file("tmp/sidekiq"), "size=3m")
    worker = start_ready(install: recover, before: QUICK_HEARTBEAT, concurrency: 1)
    push("Evaluate", "note 'it runs' # #{"x" * 5_000_000}")
    said = "the flight recorder had no room for 1 job, and no file could be written for it " \
           "(#{file("tmp/sidekiq/recorders")} is on a full file system;"
    wait_until("it is reported") { worker.log.include?(said) }
    wait_for_note("it runs")
    expect(files_of_jobs).to be_empty
  end

  it "are reported as unprotected if somebody removes the recorder" do
    worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
    FileUtils.rm(recorders)
    wait_until("it is reported") { worker.log.include?("somebody has removed the flight recorder") }
    expect(worker).to be_running
  end

  describe "whose machine never comes back" do
    def copies = redis.call("ZRANGE", "sidekiq_lifecycle:recorders", 0, -1, database: @database)
    def copy(identity) = redis.call("HKEYS", "#{identity}:lifecycle:jobs", database: @database) - ["recorder"]

    # Nothing is left of its disk, and Redis shows it as silent for more than a minute.
    def lose(worker)
      kill(worker)
      FileUtils.rm_rf(file("tmp/sidekiq"))
      identity = copies.first
      redis.call("DEL", identity, database: @database)
      redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", identity, database: @database)
    end

    it "are put back by any process of the fleet, once, if they had run across a heartbeat" do
      worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
      start_job
      wait_until("it is copied") { copies.any? && copy(copies.first).any? }
      lose(worker)
      others = [start_next(before: QUICK_HEARTBEAT), start_next(before: QUICK_HEARTBEAT)]
      wait_until("the job again") { begun == 2 }
      wait_until("it is claimed") { copies.none? { |identity| identity.include?(":#{worker.pid}:") } }
      said = -> { others.sum { |other| other.log.scan("was killed while it had Evaluate").size } }
      wait_until("a log says so") { said.call == 1 }
      expect(history.map { |line| line["outcome"] }).to eq(["put_back"])
      release
      wait_for_note("job ends")
      wait_until("no copy is left") { copies.empty? }
    end

    it "are copied at once when it is told to go quiet, also if they have just begun" do
      worker = start_ready(install: recover, before: RARE_HEARTBEAT)
      start_job
      expect(copies).to be_empty
      worker.signal(:TSTP)
      wait_until("it is copied") { copies.any? && copy(copies.first).size == 1 }
      release
      worker.signal(:TERM)
      expect(worker.exit_code).to eq(0)
      expect(copies).to be_empty
    end

    it "are not put back if they had ended, as the recorder of a machine that is still there shows" do
      worker = start_ready(install: recover, before: RARE_HEARTBEAT)
      start_job
      worker.signal(:TSTP)
      wait_until("it is copied") { copies.any? && copy(copies.first).size == 1 }
      identity = copies.first
      copied = redis.call("HGETALL", "#{identity}:lifecycle:jobs", database: @database).to_a.flatten
      release
      wait_until("drained") { File.exist?(drained_file) }
      kill(worker)
      # As if no heartbeat had removed it.
      redis.call("HSET", "#{identity}:lifecycle:jobs", *copied, database: @database)
      redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", identity, database: @database)
      redis.call("DEL", identity, database: @database)
      start_next(before: QUICK_HEARTBEAT)
      wait_until("the copy is gone") { copies.empty? }
      expect([begun, queued, history]).to eq([1, 0, []])
    end

    it "are not put back if they ended while Redis was away, and so was their copy" do
      own_redis
      worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
      start_job
      wait_until("it is copied") { copies.any? && copy(copies.first).size == 1 }
      identity = copies.first
      copied = redis.call("HGETALL", "#{identity}:lifecycle:jobs", database: @database).to_a.flatten
      redis.stop
      release
      wait_for_note("job ends")
      worker.signal(:TERM)
      worker.exit_code
      expect(recorders.size).to eq(1)
      redis.start
      redis.call("HSET", "#{identity}:lifecycle:jobs", *copied, database: @database)
      redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", identity, database: @database)
      start_next(before: QUICK_HEARTBEAT)
      wait_until("the copy is gone") { copies.empty? }
      wait_until("its recorder is gone") { recorders.size == 1 }
      expect([begun, queued, history]).to eq([1, 0, []])
    end

    it "are reported while Redis refuses their copy" do
      own_redis.call("ACL", "SETUSER", "default", "-hmget")
      worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
      start_job
      refusal = /\ARedis refuses the copy of the jobs in hand \(.*hmget.*\), so they are lost if this machine does not/
      wait_until("it is reported") { problems_of(worker.pid).grep(refusal).any? }
      own_redis.call("ACL", "SETUSER", "default", "+hmget")
      wait_until("it is over") { problems_of(worker.pid).empty? && copies.any? }
      release
    end

    it "are not put back while Sidekiq shows it as alive" do
      worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
      start_job
      wait_until("it is copied") { copies.any? }
      Process.kill(:STOP, worker.pid)
      redis.call("PERSIST", copies.first, database: @database)
      redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", copies.first, database: @database)
      start_next(before: QUICK_HEARTBEAT, after: <<~RUBY)
        SidekiqLifecycle::JobCopy.prepend(Module.new { def recover(*) = super.tap { note "looked" } })
      RUBY
      wait_for_note("looked")
      expect([history, begun]).to eq([[], 1])
      Process.kill(:CONT, worker.pid)
      release
    end

    # One thread, because an idle one would still take the job.
    it "run twice if it had only lost its network, and it says so when it is back" do
      worker = start_ready(install: recover, before: QUICK_HEARTBEAT, concurrency: 1, timeout: 1)
      start_job
      wait_until("it is copied") { copies.any? }
      Process.kill(:STOP, worker.pid)
      identity = copies.first
      redis.call("DEL", identity, database: @database)
      redis.call("ZADD", "sidekiq_lifecycle:recorders", "1", identity, database: @database)
      start_next(before: QUICK_HEARTBEAT)
      wait_until("the job again") { begun == 2 }
      Process.kill(:CONT, worker.pid)
      wait_until("it says so") { worker.log.match?(/took it for dead and put Evaluate \h{24} back, which runs here/) }
      # It is cut off here, and goes on there.
      worker.signal(:TERM)
      expect([worker.exit_code, queued, begun]).to eq([0, 0, 2])
      release
    end
  end

  describe "that its process pushes back itself" do
    # Redis' reply to the first script of that name gets lost.
    def lost_reply = <<~RUBY
      SidekiqLifecycle::SidekiqCompat.singleton_class.prepend(Module.new do
        def evaluate(redis, script, *)
          result = super
          return result if !script.include?("RPUSH") || File.exist?("lost")
          FileUtils.touch("lost")
          raise Errno::ECONNRESET
        end
      end)
    RUBY

    def interrupt(**options)
      worker = start_ready(install: recover, timeout: 1, concurrency: 1, **options)
      start_job
      worker.signal(:TERM)
      expect([worker.exit_code, worker.log]).to match([0, /Pushed 1 jobs back to Redis/])
    end

    it "are pushed once if Redis' reply gets lost" do
      interrupt(before: 'require "fileutils"', after: lost_reply)
      expect([File.exist?(file("lost")), queued, recorders]).to eq([true, 1, []])
    end

    it "are pushed as ever if Redis refuses the script" do
      own_redis.call("ACL", "SETUSER", "default", "-eval", "-hset")
      interrupt
      expect([queued, recorders]).to eq([1, []])
    end

    describe "once they are recorded" do
      let(:recorder) { SidekiqLifecycle::FlightRecorder }
      let(:config) { defined?(Sidekiq::Config) ? Sidekiq::Config.new : Sidekiq }
      let(:cleared) { [] }

      before do
        config.redis = { url: redis.url(@database) }
        cleared = self.cleared
        native = Object.new
        native.define_singleton_method(:recorder_id) { "f00" }
        native.define_singleton_method(:clear_job) { |token| cleared << token }
        recorder.instance_variable_set(:@native, native)
        recorder.instance_variable_set(:@config, config)
      end

      after { %i[@native @config].each { |name| recorder.remove_instance_variable(name) } }

      def work(queue, number)
        require "sidekiq/fetch"
        recorded = Class.new(Sidekiq::BasicFetch::UnitOfWork) { prepend SidekiqLifecycle::FlightRecorder::UnitOfWork }
        recorded.new("queue:#{queue}", %({"class":"Mail"})).tap { |work| work.lifecycle_token = number << 16 if number }
      end

      def length(queue) = redis.call("LLEN", "queue:#{queue}", database: @database)

      it "are pushed once, however often they are requeued" do
        2.times { work("default", 1).requeue }
        expect([queued, cleared]).to eq([1, [1 << 16] * 2])
      end

      it "do not keep each other from their queues if one is no list" do
        redis.call("SET", "queue:odd", "no list", database: @database)
        works = [work("odd", 1), work("default", 2)]
        2.times { expect { recorder.push_back(works) }.to raise_error(SidekiqLifecycle::Error, /WRONGTYPE/) }
        redis.call("DEL", "queue:odd", database: @database)
        expect([recorder.push_back(works), length("odd"), length("default")]).to eq([[], 1, 1])
      end

      it "leave those to Sidekiq that are not" do
        others = [work("default", nil), Struct.new(:queue, :job).new("queue:default", "{}")]
        expect(recorder.push_back([work("default", 1), *others])).to eq(others)
        expect(queued).to eq(1)
      end
    end
  end

  it "whose queue is no list are not marked, and are put back once it is one" do
    config = defined?(Sidekiq::Config) ? Sidekiq::Config.new : Sidekiq
    config.redis = { url: redis.url(@database) }
    put_back = SidekiqLifecycle::PutBack.new(config, limit: 3, by: "a process")
    jobs = %w[default odd low].each_with_index.map do |queue, number|
      SidekiqLifecycle::PutBack::InHand.new(number, 0, false, "queue:#{queue}", %({"class":"Mail","jid":"#{queue}"}))
    end
    redis.call("SET", "queue:odd", "no list", database: @database)
    expect { put_back.call("f00", "process 7", jobs) }.to raise_error(StandardError, /WRONGTYPE/)
    expect(%w[default low].map { |queue| redis.call("LLEN", "queue:#{queue}", database: @database) }).to eq([1, 1])
    redis.call("DEL", "queue:odd", database: @database)
    put = put_back.call("f00", "process 7", jobs).reject(&:already?)
    expect(put.map { |outcome| outcome.killed_job.job.jid }).to eq(["odd"])
    expect([queued, redis.call("LLEN", "queue:odd", database: @database)]).to eq([1, 1])
  end

  it "whose queue is no list are put back by the next Sidekiq that starts once it is one" do
    worker = start_ready(install: recover, concurrency: 1)
    start_job
    kill(worker)
    redis.call("DEL", "queue:default", database: @database)
    redis.call("SET", "queue:default", "no list", database: @database)
    successor = start(install: recover, name: "spoilt")
    said = /cannot put back what process #{worker.pid} had in hand \(.*\); the next Sidekiq that starts tries again/
    wait_until("it says so") { successor.log.match?(said) }
    redis.call("DEL", "queue:default", database: @database)
    start_next
    wait_until("it runs again") { begun == 2 }
  end

  describe "in a recorder that cannot be used:", full: Sandbox::MAJOR != 8 do
    def spoil
      worker = start_ready(install: recover)
      start_job
      kill(worker)
      yield recorders.first
      outside = File.join(Dir.mktmpdir, "outside").tap { |path| File.write(path, "untouched") }
      successor = start_next
      expect(begun).to eq(1)
      expect(check).to eq([0, "ready\n"])
      expect(File.read(outside)).to eq("untouched")
      successor.log
    end

    {
      "truncated" => [->(path) { File.truncate(path, 5000) }, "it is damaged"],
      "empty" => [->(path) { File.truncate(path, 0) }, "it is no flight recorder"],
      "garbage" => [->(path) { File.binwrite(path, Random.bytes(9999)) }, "it is no flight recorder"],
      "of another version" => [->(path) { File.binwrite(path, [9].pack("L<"), 8) }, "its format has version 9"],
      "somebody else's" => [->(path) { File.chown(4711, nil, path) }, "it belongs to uid 4711"],
      "a link" => [->(path) { File.rename(path, "#{path}.away") && File.symlink("#{path}.away", path) },
                   "it is a symbolic link"],
      "with a second name" => [->(path) { File.link(path, "#{path}.away") }, "it has a second name"],
      "a directory" => [->(path) { File.delete(path) && Dir.mkdir(path) }, "it is not a file"],
      "a pipe" => [->(path) { File.delete(path) && File.mkfifo(path) }, "it is not a file"]
    }.each do |what, (spoiling, reason)|
      it "#{what}: one line says so, and Sidekiq runs" do
        log = spoil(&spoiling)
        expect(log.scan("jobs in flight recorders that cannot be read are not put back").size).to eq(1)
        expect(log).to include(reason)
      end
    end

    it "a directory that is a link: one line says so, Sidekiq runs, and records all jobs once that is fixed" do
      FileUtils.mkdir_p([file("tmp/sidekiq"), file("elsewhere")])
      File.symlink(file("elsewhere"), file("tmp/sidekiq/recorders"))
      worker = start_ready(install: recover, before: QUICK_HEARTBEAT)
      wait_until("a line says so") { worker.log.include?("no flight recorder, so jobs in hand are lost") }
      start_job
      expect(Dir.children(file("elsewhere"))).to be_empty

      File.delete(file("tmp/sidekiq/recorders"))
      wait_until("there is one") { recorders.any? && record(worker.pid)["problems"].empty? }
      expect(worker.log.scan("no flight recorder, so jobs in hand are lost").size).to eq(1)
      wait_until("what runs is recorded") { File.binread(recorders.first).include?("job begins") }
      start_job("later")
      kill(worker)
      start_next
      wait_until("both again") { [begun, begun("later")] == [2, 2] }
      release
    end
  end

  # `bin/test --full` runs a thousand rounds. To repeat some: ROUNDS=50 bin/in-sidekiq 7 bin/spec
  # spec/integration/recovery_spec.rb --seed SEED -e random
  rounds = ENV["FULL"] ? 1000 : Integer(ENV.fetch("ROUNDS", 10))
  (1..rounds).each_slice(25).with_index do |slice, number|
    it "run again if killed at random, and are put back once each (rounds #{slice.first} to #{slice.last})" do
      killed = KilledRounds.new(self, slice.size, RSpec.configuration.seed + number).run
      counts = "#{killed.twice.size} ran twice, #{killed.in_the_window.size} lost before they were recorded"
      RSpec.configuration.reporter.message("#{slice.size} rounds, #{killed.pushed.size} jobs: #{counts}")
      expect(killed).to have_attributes(lost: [], duplicates: [], put_back_twice: {})
      # Without the recorder each kill takes several.
      expect(killed.in_the_window.size).to be <= slice.size
    end
  end
end
