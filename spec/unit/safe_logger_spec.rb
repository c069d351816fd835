# frozen_string_literal: true

require "logger"
require "stringio"

RSpec.describe SidekiqLifecycle::SafeLogger do
  let(:output) { StringIO.new }
  let(:logger) { Class.new(Logger) { def add(*) = @broken ? raise("nobody takes this") : super }.new(output) }
  let(:methods) { %i[debug info warn error fatal unknown] }

  after { described_class.release }

  def break_it(logger) = logger.instance_variable_set(:@broken, true)

  it "loses what cannot be logged, and nothing else" do
    described_class.protect(logger)
    methods.each { |method| logger.public_send(method, "with #{method}") }
    logger.info("program") { "in a block" }
    expect(output.string.scan(/with (\w+)/).flatten.map(&:to_sym)).to eq(methods)
    expect(output.string).to include("program: in a block")
    break_it(logger)
    expect(methods.map { |method| logger.public_send(method, "again") }).to all(be(false))
    expect(logger.add(Logger::WARN, "again")).to be(false)
    expect(output.string).not_to include("again")
  end

  it "hands over keywords, for there are loggers that take them" do
    theirs = Class.new { def info(text, payload: nil) = [text, payload] }.new
    described_class.protect(theirs)
    expect([theirs.info("a"), theirs.info("b", payload: 1)]).to eq([["a", nil], ["b", 1]])
  end

  it "lets a logger raise again when Sidekiq has ended inside a program that goes on" do
    described_class.protect(logger)
    described_class.release
    break_it(logger)
    expect { logger.info("again") }.to raise_error("nobody takes this")
  end
end
