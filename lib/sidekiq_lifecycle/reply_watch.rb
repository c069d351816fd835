# frozen_string_literal: true

require_relative "sidekiq_compat"

module SidekiqLifecycle
  # Watches for the reply to a thread's fetch. The core waits for it without the GVL, and records the job at once. Ruby
  # would have to get the GVL first, which takes a tenth of a second and more if other threads compute.
  #
  # @api private
  class ReplyWatch
    # Of the thread that has fetched.
    KEY = :sidekiq_lifecycle_reply

    # @return [ReplyWatch] the calling thread's
    def self.current = Thread.current[KEY] ||= new

    # @return [Integer, nil] the token of the job that the last fetch has received
    attr_reader :token

    # Runs a fetch.
    #
    # @param native [Native::Process]
    # @param fetcher [Sidekiq::BasicFetch]
    # @yieldreturn [Sidekiq::BasicFetch::UnitOfWork, nil]
    # @return [Sidekiq::BasicFetch::UnitOfWork, nil]
    def fetch(native, fetcher, &block)
      @native = native
      @token = nil
      pool = pool_of(fetcher) unless @waited
      @waited = false
      pool ? watch(pool, &block) : yield
    ensure
      @native = nil
    end

    # Waits until the socket can be read.
    #
    # @param socket [Watched]
    # @param timeout [Numeric, nil] seconds
    # @return [Boolean, nil] whether it can; nil: the thread is not fetching, or the wait was interrupted
    def wait(socket, timeout)
      return unless @native

      @waited = true
      awaited = @native.await_job(socket.fileno, timeout)
      replace_token(awaited) if awaited.is_a?(Integer)
      awaited && true
    rescue StandardError
      nil # the caller's own wait raises it again
    end

    # The socket of a connection to Redis.
    module Watched
      # Both clients for Redis call this where there is nothing to read yet.
      def wait_readable(timeout = nil)
        readable = Thread.current[KEY]&.wait(self, timeout)
        readable.nil? ? super : readable && self
      end
    end

    private

    # A fetch that goes on after a job has dealt with that job.
    def replace_token(token)
      @native.clear_job(@token) if @token
      @token = token
    end

    # The fetch gets the same client: the pool gives a thread the one that it has already. If Redis cannot be reached,
    # this raises what the fetch would.
    def watch(pool)
      pool.with do |redis|
        SidekiqCompat.connect(redis)
        watch_socket(redis)
        yield
      end
    end

    def pool_of(fetcher)
      SidekiqCompat.redis_pool(fetcher)
    rescue StandardError
      nil
    end

    def watch_socket(redis)
      socket = SidekiqCompat.socket(redis)
      socket.extend(Watched) unless socket.nil? || socket.is_a?(Watched)
    rescue StandardError
      nil # an unknown client
    end
  end
end
