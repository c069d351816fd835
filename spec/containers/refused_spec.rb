# frozen_string_literal: true

# A seccomp profile refuses each system call of the relay and of `run` in turn. Either docker stop still saves the jobs,
# or nothing is traced, and the log and the status name the refused call. `run` reports the error and starts nothing.
RSpec.describe "where a seccomp profile refuses", :containers do
  # An ordinary run has the most likely cases: profiles that are older than a call, or stricter than Docker's.
  likely = %w[ptrace pidfd_open pidfd_send_signal signalfd4 timer_create]
  is_likely = ->(refused) { likely.include?(refused.call) && refused.errno != "EACCES" }
  refused = { "the relay" => RefusedSystemCall.relay, "`run`" => RefusedSystemCall.run }

  before(:context) do
    LaunchedContainer.prepare
    chosen = self.class.children.flat_map { |group| RSpec.world.filtered_examples[group] }
    @outcomes = ParallelRuns.new(chosen.map { |example| example.metadata[:refused] }, size: 6, &:run)
  end

  after(:context) { @outcomes&.stop }

  refused.each do |subject, all|
    context subject do
      all.each do |one|
        it "a call: #{one}; it works, or reports it", refused: one, full: !is_likely.call(one) || Sandbox::MAJOR != 7 do
          outcome = @outcomes[one]
          expect(outcome.result).to eq("works").or(eq("says so")), -> { "#{outcome.result}\n#{outcome.story}" }
        end
      end
    end
  end
end
