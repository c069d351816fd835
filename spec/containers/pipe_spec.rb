# frozen_string_literal: true

# A pipeline whose reader gets the same signal as Sidekiq, and ends at once. With `$stderr = $stdout`, which people set
# to keep the lines in order, the next line that Sidekiq logs raises in its main thread.
RSpec.describe "a container whose log has lost its reader", :containers do
  before(:context) { LaunchedContainer.prepare }

  ["tini -g --", "dumb-init", "#{LaunchForm::RUN} -g --"].each do |init|
    it "is stopped below #{init}, and its jobs are saved" do
      form = LaunchForm.line("sidekiq 2>&1 | cat")
      form.command = [*init.split, *form.command]
      LaunchedContainer.open(form, before: "$stderr = $stdout") do |launch|
        launch.stop(SignalOutcome::GENEROUS)
        launch.exit_code
        expect(launch).to be_nothing_lost
        expect(launch.records).to match([include("state" => "stopped", "exit_status" => 0)])
      end
    end
  end
end
