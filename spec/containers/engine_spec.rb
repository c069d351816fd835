# frozen_string_literal: true

# On a host the doctor reads a container's stop timeout from Docker.
RSpec.describe "the stop timeout of a container, seen from its host", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { LaunchedContainer.prepare }

  def time_of(settings, timeout: 25)
    LaunchedContainer.open(LaunchForm.line("exec sidekiq").with_timeout(timeout), settings:) do |launch|
      code, words = launch.examine_from_host
      [code, words[/^  time +(.+)$/, 1] || words]
    end
  end

  it "is what docker run --stop-timeout has set" do
    expect(time_of({ StopTimeout: 60 }))
      .to match([0, /fit into the stop timeout of 60 s \(StopTimeout of container \h{12}; docker stop -t overrides/])
  end

  it "is Docker's default if none is set" do
    expect(time_of({}))
      .to match([1, /do not fit into the stop timeout of 10 s \(the engine's default, as container \h{12} /])
  end

  it "is what generate writes into the environment" do
    variable = [*Container.environment, "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT=30"]
    expect(time_of({ StopTimeout: 60, Env: variable }))
      .to match([0, /fit into the stop timeout of 30 s \(\$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT\)/])
  end

  it "is unknown if an orchestrator decides it" do
    expect(time_of({ Labels: { "com.amazonaws.ecs.cluster": "shop" } }).last).to include("is not known")
  end
end
