# frozen_string_literal: true

require "logger"
require "stringio"

RSpec.describe SidekiqLifecycle::Complaints do
  let(:log) { StringIO.new }
  let(:logger) { Logger.new(log) }

  it "makes each once, on one line, without secrets" do
    2.times { subject.make(logger, "no redis://:pw@h\nTOKEN=x") }
    expect(log.string.scan("sidekiq_lifecycle: no redis://[hidden]@h TOKEN=[hidden]\n").size).to eq(1)
  end

  it "does not remember for ever, but what was said last" do
    limit = described_class::REMEMBERED
    (10 * limit).times { |number| subject.make(logger, "problem #{number}") }
    remembered = subject.instance_variable_get(:@made)
    expect(remembered.size).to eq(limit)
    subject.make(logger, "problem #{(10 * limit) - 1}")
    expect(log.string.lines.size).to eq(10 * limit)
  end
end
