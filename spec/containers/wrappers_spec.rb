# frozen_string_literal: true

# Nothing is called safe that loses jobs, whatever stands around a Sidekiq.
RSpec.describe "what stands in front of a Sidekiq", :containers, full: Sandbox::MAJOR != 7 do
  modes = ENV["FULL"] ? Wrapper::MODES.keys : %w[auto]
  wrappers = modes.flat_map { |mode| Form.wrapped.map { |form| Wrapper.new(form, mode) } }

  before(:context) do
    Launch.prepare
    chosen = RSpec.world.filtered_examples[self.class].map { |example| example.metadata[:wrapper] }
    @measured = Pool.new(chosen, size: 6, &:run)
  end

  after(:context) { @measured&.stop }

  wrappers.each do |wrapper|
    it "is called safe only if no job is lost: #{wrapper}", wrapper: do
      measured = @measured[wrapper]
      expect(measured).to be_saved.or(satisfy { !measured.safe? }),
                          -> { "#{measured.inside}, from the host #{measured.host}\n#{measured.story}" }
    end
  end
end
