# frozen_string_literal: true

# What ends well without the relay ends the same with it: the same signals come to each Sidekiq in the same order, the
# same becomes of the jobs, and the exit code is the same.
RSpec.describe "a container that needs no relay", :containers do
  # Every kind once, in an ordinary run on one major; with --full all of them on all.
  kinds = LaunchForm.orderly.select do |form|
    form.name.match?(/\Adash|supervisor/) || (form.name.include?("quiets, waits") && !form.name.include?("dash"))
  end
  forms = ENV["FULL"] ? LaunchForm.orderly + LaunchForm.all.select(&:safe?) : kinds

  def self.examples_to_run = RSpec.world.filtered_examples[self]

  before(:context) do
    LaunchedContainer.prepare
    chosen = self.class.examples_to_run.map { |example| example.metadata[:form] }
    @stops = ParallelRuns.new(chosen.product(%i[off auto]), size: 6) { |form, relay| OrderlyStop.new(form, relay).run }
  end

  after(:context) { @stops&.stop }

  forms.each do |form|
    it "ends with the relay as it does without: #{form}", form:, full: Sandbox::MAJOR != 7 do
      without, with = %i[off auto].map { |relay| @stops[[form, relay]] }
      expect(without).to be_orderly, -> { "without the relay: #{without.seen}\n#{without.story}" }
      expect(with.seen).to eq(without.seen), -> { "#{without.seen}, with the relay: #{with.seen}\n#{with.story}" }
    end
  end
end
