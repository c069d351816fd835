# frozen_string_literal: true

require "json"
require "tmpdir"

RSpec.describe SidekiqLifecycle::Status do
  around { |example| Dir.mktmpdir { |directory| @directory = directory and example.run } }

  let(:configuration) do
    SidekiqLifecycle::Configuration.new(root: @directory).tap do |configuration|
      configuration.directory = "life"
      configuration.stop_timeout = 30
    end
  end
  let(:about) { { sidekiq: Sidekiq::VERSION, concurrency: 7, embedded: false } }
  let(:native) do
    SidekiqLifecycle::Native::Process.register(configuration.directory, configuration.ready_file, JSON.generate(about))
  end

  def status(busy: 0)
    described_class.new(JSON.parse(native.report), configuration, busy:)
  end

  it "tells of a life, step by step" do
    expect(status).to have_attributes(
      state: :booting, why: nil, pid: Process.pid, busy: 0, concurrency: 7, beat_age: nil, exit_status: nil,
      rearmed: {},
      problems: [], directory: File.join(@directory, "life"), ready_file: File.join(@directory, "life/ready"),
      stop_timeout: 30, sidekiq_version: Sidekiq::VERSION, version: SidekiqLifecycle::VERSION,
      ready?: false, live?: true, quiet?: false, drained?: false, embedded?: false
    )
    native.record_started
    native.record_job_started("b2", "Mail", "low")
    running = { job_class: "Mail", jid: "b2", queue: "low", running_for: be >= 0 }
    expect(status.running_jobs.first).to have_attributes(running)
    native.record_job_finished("b2")
    expect(status(busy: 3)).to have_attributes(state: :running, busy: 3, ready?: true, live?: true, quiet?: false,
                                               beat_age: be >= 0)
    native.record_quiet
    expect(status).to have_attributes(state: :quiet, why: "quiet was called", ready?: false, live?: true, quiet?: true,
                                      drained?: false)
    native.mark_drained
    expect(status).to have_attributes(state: :quiet, drained?: true)
    native.record_stopping
    expect(status).to have_attributes(state: :stopping, why: "stop was called", quiet?: true, drained?: true)
    native.record_job_started("a1", "Mail", "low")
    jobs = '[{"class":"Mail","jid":"a1","queue":"low","running_for":25.2}]'
    native.record_unfinished(jobs, "[{}]")
    expect(status.running_jobs.map(&:to_s)).to eq([]) # it has drained
    expect(status.interrupted_jobs.map(&:to_s)).to eq(["Mail a1 (queue low, running for 25 s)"])
    expect(status.lost_jobs.map(&:to_s)).to eq(["a job whose name is not known"])
    native.record_exit(3, "SIGINT")
    expect(status).to have_attributes(state: :stopped, exit_status: 3, quiet?: false, ready?: false, live?: false)
    expect(status.timings.keys).to contain_exactly(:booting, :running, :quiet, :drained, :stopping, :stopped)
    expect(status.timings.values.sort).to eq(status.timings.values_at(:booting, :running, :quiet, :drained, :stopping,
                                                                      :stopped))
    expect(status.since).to eq(status.timings[:stopped]).and be_utc
  end

  it "does not change, nor can it be changed, whatever becomes of the process" do
    before = status
    expect(Ractor.shareable?(before)).to be(true)
    told = before.to_h
    native.record_started
    expect(before.to_h).to eq(told)
    expect { before.timings[:running] = Time.now }.to raise_error(FrozenError)
    expect { before.problems << "none" }.to raise_error(FrozenError)
    expect { before.directory << "/.." }.to raise_error(FrozenError)
  end

  it "is told as a hash, which can be written as JSON" do
    hash = status(busy: 2).to_h
    expect(hash).to include(state: :booting, busy: 2, pid: Process.pid, ready: false, live: true, quiet: false,
                            drained: false, embedded: false)
    expect(hash.keys).to match_array(described_class.instance_methods(false).map do |name|
                                       name.to_s.chomp("?").to_sym
                                     end -
                                     %i[to_h inspect])
    expect(JSON.parse(JSON.generate(hash))).to include("state" => "booting", "stop_timeout" => 30.0)
  end

  it "is told in a line" do
    expect(status(busy: 2).inspect).to eq(
      "#<SidekiqLifecycle::Status pid=#{Process.pid} state=booting busy=2 ready=false drained=false>"
    )
  end
end
