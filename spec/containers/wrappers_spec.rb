# frozen_string_literal: true

# No launch form that loses jobs is reported as safe, whatever program is around Sidekiq.
RSpec.describe "a program in front of a Sidekiq", :containers, full: Sandbox::MAJOR != 7 do
  modes = ENV["FULL"] ? Wrapper::MODES.keys : %w[auto]
  wrappers = modes.flat_map { |mode| LaunchForm.wrapped.map { |form| Wrapper.new(form, mode) } }

  before(:context) do
    LaunchedContainer.prepare
    chosen = RSpec.world.filtered_examples[self.class].map { |example| example.metadata[:wrapper] }
    @measured = ParallelRuns.new(chosen, size: 6, &:run)
  end

  after(:context) { @measured&.stop }

  wrappers.each do |wrapper|
    it "is reported as safe only if no job is lost: #{wrapper}", wrapper: do
      measured = @measured[wrapper]
      expect(measured).to be_saved.or(satisfy { !measured.safe? }),
                          -> { "#{measured.inside}, from the host #{measured.host}\n#{measured.story}" }
    end
  end

  it "gets the signals alone if Sidekiq was started beside it" do
    beside = LaunchForm.line("sleep 600").with_timeout(5)
    LaunchedContainer.prepared(beside, install: "lifecycle.stop_timeout = #{Wrapper::STOP_TIMEOUT}") do |launch|
      launch.boot
      session = Thread.new { launch.exec(*LaunchForm::DIRECT) }
      session.report_on_exception = false
      launch.await("ready") { launch.ready? }
      expect(launch.exec("sidekiq-lifecycle", "doctor"))
        .to match([1, /loses jobs on stop: Sidekiq was started beside PID 1 of its container \(docker exec\)/])
      launch.push("Long")
      launch.await("it has the job") { launch.noted("long begins").any? }
      launch.stop(1)
      expect(launch.exit_code).to eq(137)
      expect([launch.heard("TERM"), launch.queued]).to eq([[0], []])
    ensure
      session&.kill
    end
  end
end
