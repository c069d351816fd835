# frozen_string_literal: true

# One deploy as data: when each worker started, was ready, and ended, and what happened to each job. Times are seconds
# since the start of the deploy. It uses no clock and no container.
class Timeline
  # A worker is ready until it is stopping; one that keeps running has neither stopping nor stopped.
  Worker = Struct.new(:name, :started, :ready, :stopping, :stopped, keyword_init: true)
  Job = Struct.new(:pushed, :began, :worker, keyword_init: true)

  attr_reader :title, :workers, :jobs, :marks, :last

  # @param title [String]
  # @param workers [Array<Worker>] in the order in which they started
  # @param jobs [Array<Job>]
  # @param marks [Hash{String => Float}] what else happened, and when
  # @param last [Float] the time of the last observation
  def initialize(title:, workers:, jobs:, last:, marks: {})
    @title = title
    @workers = workers
    @jobs = jobs.sort_by(&:pushed)
    @marks = marks
    @last = last
  end

  # @return [Float] when the first job was pushed
  def first = jobs.first.pushed

  # The spans in which no worker was ready, after the first one was.
  # @return [Array<Range<Float>>]
  def gaps
    spans = workers.map { |worker| worker.ready..(worker.stopping || last) }.sort_by(&:begin)
    covered = spans.first.end
    spans.drop(1).filter_map do |span|
      gap = (covered..span.begin) if span.begin > covered
      covered = [covered, span.end].max
      gap
    end
  end

  # @return [Array<Job>] the jobs pushed while no worker was ready
  def stranded = jobs.select { |job| gaps.any? { |gap| gap.cover?(job.pushed) } }

  # @return [Float] the longest that a job has waited
  def longest_wait = jobs.map { |job| job.began - job.pushed }.max

  # How many jobs waited, from each moment at which that changed.
  # @return [Array<Array(Float, Integer)>]
  def waiting
    count = 0
    changes = jobs.map { |job| [job.pushed, 1] } + jobs.map { |job| [job.began, -1] }
    changes.sort.map { |at, change| [at, count += change] }
  end
end
