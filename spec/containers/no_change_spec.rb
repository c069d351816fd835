# frozen_string_literal: true

# A container that stops properly without the relay stops the same way with it: each Sidekiq gets the same signals in
# the same order, the same happens to the jobs, and the exit code is the same.
RSpec.describe "a container that needs no relay", :containers do
  # An ordinary run has each kind once, on one major; --full has all of them on all majors.
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
    it "ends with the relay as without it: #{form}", form:, full: Sandbox::MAJOR != 7 do
      without, with = %i[off auto].map { |relay| @stops[[form, relay]] }
      expect(without).to be_orderly, -> { "without the relay: #{without.seen}\n#{without.story}" }
      expect(with.seen).to eq(without.seen), -> { "#{without.seen}, with the relay: #{with.seen}\n#{with.story}" }
    end
  end
end
