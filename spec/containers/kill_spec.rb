# frozen_string_literal: true

# The platform's kill ends a container at once, in every state of its worker and its relay. No time is asserted: a
# container that waited for its worker would stay for two minutes, or forever. The seconds are in docs/kill-matrix.md.
RSpec.describe "a container that is killed", :containers do
  # Coreutils' timeout does not work as PID 1 there (Debian 14: it exits with 125 at once).
  forms = LaunchForm.traced.reject { |form| form.name.start_with?("timeout") && Sandbox::MAJOR == 8 }
  kills = KilledContainer.covering(forms)
  # An ordinary run has others each time.
  sample = Sandbox::MAJOR == 7 ? 30 : 6
  kills = kills.sample(sample, random: Random.new(RSpec.configuration.seed)) unless ENV["FULL"]
  if ENV["FULL"]
    kills = KilledContainer.all(forms) if Sandbox::MAJOR == 7
    # For the table: how long each one takes without the relay.
    kills = kills.flat_map { |kill| [kill.without_relay, kill] }.uniq
  end

  before(:context) do
    LaunchedContainer.prepare
    chosen = RSpec.world.filtered_examples[self.class].map { |example| example.metadata[:kill] }
    @outcomes = ParallelRuns.new(chosen, size: ENV["FULL"] ? 10 : 6, &:run)
  end

  after(:context) { @outcomes&.stop }

  kills.each do |kill|
    it "is gone: #{kill}", kill: do
      outcome = @outcomes[kill]
      expect(outcome.seconds).not_to be_nil, -> { outcome.story }
    end
  end
end
