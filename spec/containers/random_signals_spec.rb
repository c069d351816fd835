# frozen_string_literal: true

# Random signals in random launch forms, and sometimes a SIGKILL: no container outlives its kill, no job is lost that
# would not be lost without the gem, no file is wrong, and nothing is left behind. To repeat one round:
# bin/in-sidekiq 7 bin/spec spec/containers/random_signals_spec.rb --seed SEED -e "round NUMBER:"
# To run a thousand, several at a time (half an hour with two processors):
# ROUNDS=1000 bin/in-sidekiq 7 bin/spec spec/containers/random_signals_spec.rb
RSpec.describe "a container that gets signals at random", :containers do
  rounds = Array.new(Integer(ENV.fetch("ROUNDS", 8))) { |number| RandomSignals.new(number, RSpec.configuration.seed) }

  before(:context) do
    LaunchedContainer.prepare
    chosen = RSpec.world.filtered_examples[self.class].map { |example| example.metadata[:round] }
    @outcomes = ParallelRuns.new(chosen, size: 4, &:run)
  end

  after(:context) { @outcomes&.stop }

  rounds.each do |round|
    it "#{round}: no avoidable loss, and nothing left behind", round: do
      outcome = @outcomes[round]
      expect(outcome.problems).to be_empty, -> { "#{outcome.problems.join("\n")}\n#{outcome.story}" }
    end
  end
end
