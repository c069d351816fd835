# frozen_string_literal: true

require "sidekiq"
require "sidekiq_lifecycle/sidekiq_compat"

RSpec.describe SidekiqLifecycle::SidekiqCompat do
  describe ".refusal? and .passing?" do
    refusal = described_class.command_errors.first

    [
      ["WRONGTYPE Operation against a key holding the wrong kind of value", refusal, true, false],
      ["NOPERM this user has no permissions to run the 'hmget' command", refusal, true, false],
      ["LOADING Redis is loading the dataset in memory", refusal, false, true],
      ["OOM command not allowed when used memory > 'maxmemory'.", refusal, false, true],
      ["READONLY You can't write against a read only replica.", refusal, false, true],
      ["Connection refused", Errno::ECONNREFUSED, false, true],
      ["LOADING", ArgumentError, false, false]
    ].each do |message, kind, refused, passing|
      it "is #{refused} and #{passing} for #{kind}: #{message}" do
        error = kind.new(message)
        expect([described_class.refusal?(error), described_class.passing?(error)]).to eq([refused, passing])
      end
    end
  end

  describe ".socket" do
    def socket_of(**options)
      Sidekiq::RedisConnection.create(size: 1, **options).with do |redis|
        expect(described_class.socket(redis)).to be_nil
        2.times { described_class.connect(redis) }
        yield described_class.socket(redis)
      end
    end

    it "is that of the connection, once there is one" do
      socket_of(url: RedisServer.shared.url) do |socket|
        expect(socket.remote_address.ip_port).to eq(RedisServer.shared.port)
      end
    end

    it "is nil over TLS, where what arrives is encrypted" do
      Dir.mktmpdir do |directory|
        certificates = Certificates.new(directory)
        server = RedisServer.new(certificates:)
        ssl_params = { ca_file: certificates.authority }
        socket_of(url: server.url, ssl_params:) { |socket| expect(socket).to be_nil }
      ensure
        server&.stop
      end
    end
  end
end
