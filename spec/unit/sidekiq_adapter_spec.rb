# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::SidekiqAdapter do
  let(:sources) { Dir[File.join(File.dirname(described_class.instance_method(:handle).source_location.first), "*.rb")] }

  it "has one handler for each event in its list, and no other" do
    handlers = described_class.private_instance_methods(false).grep(/\Aon_/)
    expect(handlers).to match_array(described_class::EVENTS.map { |event| :"on_#{event}" })
  end

  it "gets each of these events from somewhere" do
    reported = sources.flat_map { |file| File.read(file).scan(/handle\(:(\w+)|%i\[(\w+) |\[:(\w+)\]/).flatten.compact }
    expect(reported.map(&:to_sym)).to include(*described_class::EVENTS)
  end
end
