# frozen_string_literal: true

require "sidekiq_lifecycle/web/page"

RSpec.describe SidekiqLifecycle::Web::Row do
  defaults = { state: :running, gone?: false, ready?: true, quiet?: false, drained?: false, busy: 0 }

  {
    "gone" => { gone?: true },
    "booting" => { state: :booting, ready?: false },
    "ready" => {},
    "unready" => { ready?: false },
    "draining" => { state: :quiet, ready?: false, quiet?: true, busy: 1 },
    "drained" => { state: :quiet, ready?: false, quiet?: true, drained?: true },
    # Without the gem nobody knows.
    "quiet" => { state: nil, ready?: false, quiet?: true, drained?: nil },
    "stopping" => { state: :stopping, ready?: false, quiet?: true, busy: 1 }
  }.each do |word, facts|
    it "calls a process #{word} if #{facts.empty? ? "it works" : facts}" do
      process = Struct.new(*defaults.keys).new(*defaults.merge(facts).values)
      expect(described_class.new(process, []).state).to eq(word)
    end
  end
end
