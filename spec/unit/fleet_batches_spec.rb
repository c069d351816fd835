# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::Fleet do
  [
    [10, nil, [10]],
    [10, 4, [4, 4, 2]],
    [10, 20, [10]],
    [10, 0.25, [3, 3, 3, 1]],
    [100, 0.07, [*[7] * 14, 2]],
    [1, 0.01, [1]],
    [0, nil, []],
    [0, 0.5, []]
  ].each do |total, batch, sizes|
    it "splits #{total} processes by #{batch.inspect} into #{sizes.inspect}" do
      expect(described_class::Batches.of(Array.new(total, &:to_s), batch).map(&:size)).to eq(sizes)
    end
  end
end
