# frozen_string_literal: true

# A shell that starts Sidekiq again whenever it ends does so during a stop, too. A Sidekiq that starts then takes no
# job, because the job would be killed with it.
RSpec.describe "a restart loop that is stopped", :containers, full: Sandbox::MAJOR != 7 do
  before(:context) { LaunchedContainer.prepare }

  loops = { "dash -c" => %w[dash -c], "bash -c" => %w[bash -c], "tini -- dash -c" => %w[tini -- dash -c],
            "tini -- bash -c" => %w[tini -- bash -c] }

  def boots(launch) = launch.noted("boots").size

  loops.each do |name, command|
    it "saves the jobs and starts no other: #{name}" do
      text = "while true; do #{LaunchForm::TARGET}; sleep 0.1; done"
      form = LaunchForm.new(name: "#{name} '#{text}'", command: [*command, text], sidekiqs: 1, timeout: 5, init: false,
                            before: 'note "boots"')
      LaunchedContainer.open(form) do |launch|
        launch.signal("TERM")
        launch.await("the short job ends") { launch.short_ended? }
        launch.push("Late")
        # Two more boots, of which the first could have taken the job; or the loop has ended.
        wait_until("the loop continues, or ends") do
          boots(launch) >= 3 || launch.noted("late begins").any? || !launch.running?
        end
        launch.kill if launch.running?
        launch.exit_code
        expect(launch.noted("late begins")).to be_empty
        expect(launch.queued).to contain_exactly("Late", "Long")
      end
    end
  end
end
