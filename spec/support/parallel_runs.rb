# frozen_string_literal: true

# Runs a block for each of many inputs, a few at a time. {#[]} waits for the result of one.
class ParallelRuns
  # @yield what to do for an input
  def initialize(inputs, size:, &work)
    waiting = Queue.new(inputs).close
    @outcomes = inputs.to_h { |input| [input, Queue.new] }
    @threads = Array.new(size) do
      Thread.new do
        while (input = waiting.pop)
          @outcomes[input] << attempt(input, work)
        end
      end
    end
  end

  # @return what the block returned for the input; raises what the block raised
  def [](input)
    outcome = @outcomes.fetch(input).pop
    raise outcome if outcome.is_a?(Exception)

    outcome
  end

  # Ends what still runs.
  def stop = @threads.each(&:kill).each(&:join)

  private

  def attempt(input, work)
    work.call(input)
  rescue StandardError => e
    e
  end
end
