# frozen_string_literal: true

# With recover_jobs, what a container had in hand when it was killed is put back once it runs again.
RSpec.describe "jobs of a container that is killed", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { LaunchedContainer.prepare }

  # Once there is food, the first one eats memory until the kernel kills it.
  let(:hungry) do
    <<~RUBY
      class Hungry
        include Sidekiq::Worker
        def perform
          note "hungry begins"
          return if File.exist?("fed")

          sleep 0.05 until File.exist?("food")
          File.write("fed", "")
          meals = []
          loop { meals << ("x" * 1_000_000) }
        end
      end
    RUBY
  end

  let(:direct) { LaunchForm.line("exec sidekiq") }
  let(:below_a_shell) { LaunchForm.line("sidekiq; echo x") }

  def with(form, **options, &block)
    LaunchedContainer.prepared(form, install: "lifecycle.recover_jobs = true", **options, &block)
  end

  # Gives each thread a job, has the block kill the container, and starts it again.
  def kill(launch, *jobs)
    occupy(launch, *jobs)
    yield
    expect(launch.exit_code).to eq(137)
    launch.start
    expect_put_back(launch, *jobs)
  end

  def occupy(launch, *jobs)
    launch.boot
    jobs.each.with_index(1) do |job, count|
      launch.push(job)
      launch.await("#{job} begins") { launch.noted("begins").size == count }
    end
    # A slow disk delays the recorder.
    launch.await("they are recorded") { launch.in_hand == jobs.size }
  end

  def expect_put_back(launch, *jobs)
    launch.await(-> { "every job is put back: #{launch.killed_jobs}" }) { launch.killed_jobs.size == jobs.size }
    expect(launch.killed_jobs).to all(include("outcome" => "put_back"))
    expect(launch.killed_jobs.map { |job| job["class"] }).to match_array(jobs)
  end

  def wait_for_both(launch) = launch.await("both begin again") { launch.noted("begins").size == 4 }

  it "run again after docker kill and docker start" do
    [direct, below_a_shell].each do |form|
      with(form) do |launch|
        kill(launch, "Long", "Long") { launch.kill }
        wait_for_both(launch)
      end
    end
  end

  it "run again after a docker restart that was too short" do
    with(direct) do |launch|
      occupy(launch, "Long", "Long")
      launch.restart(1)
      expect_put_back(launch, "Long", "Long")
      wait_for_both(launch)
    end
  end

  # Its shutdown timeout is 5 s. At TERM it copies the jobs to Redis as well, and each is put back once all the same.
  it "run again after a stop timeout that was too short" do
    with(direct) do |launch|
      kill(launch, "Long", "Long") { launch.stop(1) }
      wait_for_both(launch)
      launch.stop(30)
      expect(launch.exit_code).to eq(0)
      expect(launch.queued).to eq(%w[Long Long])
      expect(launch.killed_jobs.size).to eq(2)
    end
  end

  it "are put back if one of them held the GVL until the stop timeout was over" do
    with(below_a_shell) do |launch|
      # Without that job it would be long enough: 5 s, and 4 s of Sidekiq's own.
      kill(launch, "Long", "Stuck") { launch.stop(12) }
    end
  end

  it "run again after the kernel has killed the process for want of memory" do
    with(direct, after: hungry, memory: 200_000_000) do |launch|
      kill(launch, "Long", "Hungry") { launch.exec("touch", "/app/food") }
      wait_for_both(launch)
    end
  end
end
