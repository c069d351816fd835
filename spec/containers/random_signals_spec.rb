# frozen_string_literal: true

# Signals at random, in random forms, and sometimes a SIGKILL: no container outlives its kill, no job is lost that is
# not lost without the gem, no file lies, and nothing is left behind. To see one round again:
# bin/in-sidekiq 7 bin/spec spec/containers/random_signals_spec.rb --seed SEED -e "round NUMBER:"
# And a thousand of them, some at a time (half an hour with two processors):
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
    it "#{round}: nothing is lost or left that need not be", round: do
      outcome = @outcomes[round]
      expect(outcome.problems).to be_empty, -> { "#{outcome.problems.join("\n")}\n#{outcome.story}" }
    end
  end
end
