# frozen_string_literal: true

# Signals at random, in random forms: whatever comes, no job is lost and nothing is left behind. To see one round again:
# bin/in-sidekiq 7 bin/spec spec/containers/rounds_spec.rb --seed SEED -e "round NUMBER:"
RSpec.describe "a container that gets signals at random", :containers do
  rounds = Array.new(Integer(ENV.fetch("ROUNDS", 5))) { |number| Round.new(number, RSpec.configuration.seed) }

  before(:context) do
    Launch.prepare
    chosen = RSpec.world.filtered_examples[self.class].map { |example| example.metadata[:round] }
    @outcomes = Pool.new(chosen, size: 3, &:run)
  end

  after(:context) { @outcomes&.stop }

  rounds.each do |round|
    it "#{round}: no job is lost, nothing is left", round: do
      outcome = @outcomes[round]
      expect(outcome.problems).to be_empty, -> { "#{outcome.problems.join("\n")}\n#{outcome.story}" }
    end
  end
end
