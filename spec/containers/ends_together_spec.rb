# frozen_string_literal: true

# A container ends with its PID 1, whatever else runs in it.
RSpec.describe "a container that ends with its Sidekiq", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { LaunchedContainer.prepare }

  def told(text)
    LaunchedContainer.open(LaunchForm.line(text)) do |launch|
      launch.exec("sidekiq-lifecycle", "stop").last
    end
  end

  it "names the processes that end as well, when Sidekiq is stopped" do
    expect(told("sleep 1000 & sidekiq; true"))
      .to match(/^dash \(pid 1\) may end when process \d+ ends, and sleep \(pid \d+\) with it; quiet ends no process$/)
  end

  it "names none that only reads Sidekiq's output, or that PID 1 waits for" do
    expect([told("sidekiq | cat; sleep 5"), told("sidekiq & sleep 1000; true")]).to all(match(/stopped/))
      .and(all(satisfy { |said| !said.include?("may end") }))
  end
end
