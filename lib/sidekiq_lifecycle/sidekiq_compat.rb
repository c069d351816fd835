# frozen_string_literal: true

require "json"

module SidekiqLifecycle
  # Everything that differs between the supported versions of Sidekiq, 6.4 to 8.1. The rest of the gem does not ask for
  # a version. Each difference names the versions in whose source it was read; all of them were run with 6.4.1, 6.5.0,
  # 6.5.12, 7.0.0, 7.0.9, 7.1.6, 7.2.4, 7.3.2, 7.3.10, 8.0.10, 8.1.0 and 8.1.7.
  #
  # To support another version, read the files named here and in {SidekiqPatches}, and add what is different.
  #
  # @api private
  module SidekiqCompat
    # How a processor reports its end to its manager (`manager.rb`). 6.4.1 has `processor_stopped`, and
    # `processor_died` after a job that raised; 6.5.0 and later have `processor_result` alone.
    PROCESSOR_ENDS = %i[processor_result processor_stopped processor_died].freeze

    # Where Redis keeps the running jobs of a process (`launcher.rb`, `❤`): in `workers` in 6.4.1, in `work` in 6.5.0
    # and later.
    WORK_KEYS = %w[workers work].freeze

    # Arguments of an error handler: two in 6.4.1 to 6.5.12, three (with the config) in 7.0.0 and later, which warn of a
    # handler with two, and fail with it in 8 (`config.rb`, `handle_exception`).
    #
    # @yieldparam error [Exception]
    # @yieldparam context [Hash]
    # @return [Proc] an error handler for every version
    def self.error_handler(&handle) = ->(error, context, _config = nil) { handle.call(error, context) }

    # What Sidekiq reads its signals from (`cli.rb`, `run`). 6.4.1 goes on reading from the object that `wait_readable`
    # returns. Ruby returns true where several signals came at once, and Sidekiq ended with a NoMethodError, its jobs
    # lost. Later versions read from the pipe itself.
    module SignalPipe
      # Returns the pipe itself.
      def wait_readable(...) = super && self
    end

    # Appends an entry to a stream, and trims it.
    APPEND = 'redis.call("XADD", KEYS[1], "MAXLEN", "~", ARGV[1], "*", unpack(ARGV, 2))'
    # Redis' refusals that say nothing of the command itself.
    PASSING = /\b(OOM|READONLY|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|BUSY)\b/
    private_constant :APPEND, :PASSING

    module_function

    # ---- configuration ----

    # @return [#[]] the options: a Hash in 6.4.1 to 6.5.12 (`Sidekiq.options`; `Sidekiq[]` exists from 6.5.0 on), a
    #   `Sidekiq::Config` in 7.0.0 and later
    def options(config)
      config = config.default_configuration if config.respond_to?(:default_configuration)
      config.respond_to?(:[]) ? config : config.options
    end

    # @return [Class, nil] what fetches jobs, if the application has set it: a class in 7.0.0 and later (`capsule.rb`,
    #   `fetcher`), an object in 6.x (`launcher.rb`, `initialize`)
    def fetch_class(config) = options(config)[:fetch_class] || options(config)[:fetch]&.class

    # @return [Integer] jobs the process can run at once: the sum of its capsules in 7.0.0 and later
    def concurrency(config)
      config.respond_to?(:total_concurrency) ? config.total_concurrency : options(config)[:concurrency]
    end

    # @return [Hash{Symbol => Array<Proc>}] hooks by event. `:beat` exists from 6.5.2 on, `:exit` from 8.0.2 on.
    def lifecycle_events(config) = options(config)[:lifecycle_events]

    # ---- processes, threads and jobs ----

    # 7.0.0 and later have a manager for each capsule. That version also changed
    #
    # - when `:quiet` fires: after the scheduler's thread has ended; in 6.x before that (`launcher.rb`, `quiet`);
    # - how `:shutdown` runs: beside the jobs; in 6.x they wait for its hooks (`launcher.rb`, `stop`).
    def capsules? = ::Sidekiq::Launcher.method_defined?(:managers)

    # @return [Array<Sidekiq::Manager>] one in 6.x
    def managers(launcher)
      return [] unless launcher

      capsules? ? launcher.managers : [launcher.manager]
    end

    # @return [Integer] running jobs: `WORKER_STATE` in 6.4.1, `WORK_STATE` from 6.4.2 on (`processor.rb`)
    def busy
      processor = ::Sidekiq::Processor
      (processor.const_defined?(:WORK_STATE) ? processor::WORK_STATE : processor::WORKER_STATE).size
    end

    # In 6.x the payload of a running job is an object, in 7.0.0 and later the text of one (`launcher.rb`, `❤`).
    #
    # @return [Hash, String]
    def payload(work) = work["payload"].is_a?(String) ? JSON.parse(work["payload"]) : work["payload"]

    # ---- heartbeat ----

    # @return [Integer] seconds between two heartbeats (`launcher.rb`, `BEAT_PAUSE`): 5 in 6.x, 10 in 7.0.0 and later
    # @param version [String, nil] of a process as Redis shows it; nil: a 6.x, which does not publish its version
    def beat_pause(version) = version.nil? || version.start_with?("6") ? 5 : 10

    # Whether a heartbeat that has just ended reached Redis. `❤` rescues the error (`launcher.rb`). Where there is a
    # `:beat` event, it fires only if Redis answered. Without it (6.4.1, 6.5.0) the result tells: nil, or a count after
    # an error.
    #
    # @param config [Object]
    # @param fired [Boolean] whether `:beat` has fired
    # @param result [Object] what `❤` returned
    def beat_reached_redis?(config, fired, result)
      fired || (!lifecycle_events(config).key?(:beat) && result.nil?)
    end

    # @return [Integer] Redis round trips of one heartbeat (`launcher.rb`, `❤`): a transaction, a PING, a transaction;
    #   7.0.0 and later write the statistics before
    def heartbeat_round_trips = capsules? ? 4 : 3

    # ---- Redis clients: redis-rb 4 under 6.x, redis-client under 7.0.0 and later ----

    # The clients that a fetch uses (`fetch.rb`, `retrieve_work`): those of its capsule in 7.0.0 and later.
    #
    # @param fetcher [Sidekiq::BasicFetch]
    # @return [ConnectionPool]
    def redis_pool(fetcher) = capsules? ? fetcher.config.redis_pool : ::Sidekiq.redis_pool

    # Connects a client of a known kind.
    #
    # @param client [Object] from Sidekiq's pool
    # @return [void]
    def connect(client)
      client = without_namespace(client)
      return client.connected? || client.ping if client.respond_to?(:_client)

      client = client.instance_variable_get(:@client)
      client.connected? || client.call("PING") if defined?(::RedisClient) && client.is_a?(::RedisClient)
    end

    # The socket of a client.
    #
    # @param client [Object] from Sidekiq's pool
    # @return [BasicSocket, nil] nil: it is not connected, its driver is not written in Ruby, or it uses TLS
    def socket(client)
      client = without_namespace(client)
      socket = client.respond_to?(:_client) ? socket_of_redis_rb(client) : socket_of_redis_client(client)
      socket if socket.is_a?(BasicSocket)
    end

    # `redis/client.rb` and `redis/connection/ruby.rb`
    def socket_of_redis_rb(client)
      client._client.connection.instance_variable_get(:@sock)
    end
    private_class_method :socket_of_redis_rb

    # `redis_client.rb`, `redis_client/ruby_connection.rb` and `redis_client/ruby_connection/buffered_io.rb`
    def socket_of_redis_client(client)
      %i[@client @raw_connection @io @io].reduce(client) { |object, name| object.instance_variable_get(name) }
    end
    private_class_method :socket_of_redis_client

    def without_namespace(client)
      defined?(::Redis::Namespace) && client.is_a?(::Redis::Namespace) ? client.redis : client
    end
    private_class_method :without_namespace

    # Runs a script in Redis.
    #
    # @return [Array] its answer
    def evaluate(redis, script, keys, arguments)
      return redis.eval(script, keys, arguments) unless redis.respond_to?(:call_v)

      redis.call("EVAL", script, keys.size, *keys, *arguments)
    end

    # Appends an entry to a stream, which keeps about `limit` of them (Redis 5 and later). redis-namespace, which is
    # used with 6.x, has the streams' commands go to a key without the namespace, and scripts to one with it.
    #
    # @return [void]
    def append(redis, stream, limit, fields)
      return redis.call("XADD", stream, "MAXLEN", "~", limit, "*", *fields.flatten) if redis.respond_to?(:call_v)

      redis.eval(APPEND, [stream], [limit, *fields.flatten])
    end

    # @return [Array<Class>] what is raised where Redis cannot be reached
    def connection_errors
      loaded("Redis::BaseConnectionError", "RedisClient::ConnectionError", "ConnectionPool::TimeoutError")
    end

    # @return [Array<Class>] what is raised where Redis answers with an error
    def command_errors = loaded("Redis::CommandError", "RedisClient::CommandError")

    # @return [Boolean] whether Redis refuses the command itself, and will go on doing so
    def refusal?(error) = command_errors.any? { |kind| error.is_a?(kind) } && !error.message.match?(PASSING)

    # @return [Boolean] whether Redis may answer the same command later
    def passing?(error) = redis_errors.any? { |kind| error.is_a?(kind) } && !refusal?(error)

    # @return [Array<Class>] everything that a call to Redis may raise; redis-rb lets errors of TLS through
    def redis_errors
      [SystemCallError, SocketError,
       *loaded("Redis::BaseError", "RedisClient::Error", "ConnectionPool::TimeoutError", "OpenSSL::SSL::SSLError")]
    end

    # @param client [Object] a Redis client from Sidekiq's pool
    # @return [Array(Numeric, Numeric, Numeric, Array<Numeric>)] the timeouts to connect, read and write, and the pauses
    #   before further attempts
    def redis_timeouts(client)
      client = without_namespace(client)
      if client.respond_to?(:_client) && client._client.respond_to?(:options)
        options = client._client.options
        return [*options.values_at(:connect_timeout, :read_timeout, :write_timeout),
                [0] * options[:reconnect_attempts].to_i]
      end

      own = client.config
      pauses = own.instance_variable_get(:@reconnect_attempts) || []
      [own.connect_timeout, own.read_timeout, own.write_timeout, pauses.is_a?(Integer) ? [0] * pauses : pauses]
    end

    # @return [Array<Class>]
    def loaded(*names) = names.select { |name| Object.const_defined?(name) }.map { |name| Object.const_get(name) }
    private_class_method :loaded
  end
end
