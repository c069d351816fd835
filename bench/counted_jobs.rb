# frozen_string_literal: true

require "json"

# Jobs that do nothing but count themselves, so that a benchmark knows how long they took.
module CountedJobs
  # @param jobs [Integer]
  # @param finally [String] Ruby that the last job runs
  # @return [String] Ruby for the application: the last job writes to the file `elapsed` how many seconds have passed
  #   since the first one, and how many of processor time
  def self.source(jobs, finally: "")
    <<~RUBY
      class Count
        include Sidekiq::Worker
        LOCK = Mutex.new
        @done = 0
        def self.clocks
          [Process::CLOCK_MONOTONIC, Process::CLOCK_PROCESS_CPUTIME_ID].map { |clock| Process.clock_gettime(clock) }
        end
        def self.done
          LOCK.synchronize do
            @begun ||= clocks
            @done += 1
            return if @done < #{jobs}

            File.write("elapsed", clocks.zip(@begun).map { |now, begun| now - begun }.join(" "))
            #{finally}
          end
        end
        def perform(*) = self.class.done
      end
    RUBY
  end

  # Puts them into an empty Redis.
  #
  # @param redis [RedisServer]
  # @param jobs [Integer]
  # @param size [Integer] bytes of each payload
  def self.push(redis, jobs, size: 200)
    redis.call("FLUSHALL")
    payload = { class: "Count", args: [""], jid: "a", queue: "default", retry: false, created_at: 0, enqueued_at: 0 }
    payload[:args] = ["x" * (size - JSON.generate(payload).bytesize)]
    jobs.fdiv(100).ceil.times { redis.call("LPUSH", "queue:default", *([JSON.generate(payload)] * 100)) }
  end

  # @param ratios [Array<Float>] of the rounds
  # @return [String] their median and their middle half
  def self.spread(ratios)
    low, median, high = [1, 2, 3].map { |quarter| ratios.sort[ratios.size * quarter / 4] }
    format("%<median>.3f (%<low>.3f to %<high>.3f)", median:, low:, high:)
  end

  # @return [Array<Float>] what a worker has written to the file, once it has
  def self.wait_for(file, worker)
    worker.wait_until("#{file} is written") { File.size?(file) || worker.raise_if_ended }
    File.read(file).split.map(&:to_f)
  end
end
