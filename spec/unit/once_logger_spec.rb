# frozen_string_literal: true

require "logger"
require "stringio"

RSpec.describe SidekiqLifecycle::OnceLogger do
  let(:log) { StringIO.new }
  let(:logger) { Logger.new(log) }

  it "logs each once, on one line, without secrets" do
    2.times { subject.warn(logger, "no redis://:pw@h\nTOKEN=x") }
    expect(log.string.scan("sidekiq_lifecycle: no redis://[hidden]@h TOKEN=[hidden]\n").size).to eq(1)
  end

  # A thread switch between two lines of {OnceLogger#warn} would otherwise let two threads log the same problem.
  it "logs it once when several threads report it" do
    switch = TracePoint.new(:line) { |point| Thread.pass if point.path.end_with?("/once_logger.rb") }
    report = -> { 50.times { subject.warn(logger, "problem") } }
    switch.enable(target_thread: nil) { Array.new(4) { Thread.new(&report) }.each(&:join) }
    expect(log.string.lines.size).to eq(1)
  end

  it "does not remember for ever, but what was said last" do
    limit = described_class::REMEMBERED
    (10 * limit).times { |number| subject.warn(logger, "problem #{number}") }
    remembered = subject.instance_variable_get(:@logged)
    expect(remembered.size).to eq(limit)
    subject.warn(logger, "problem #{(10 * limit) - 1}")
    expect(log.string.lines.size).to eq(10 * limit)
  end
end
