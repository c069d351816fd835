# frozen_string_literal: true

require "sidekiq"
require "sidekiq_lifecycle/sidekiq_compat"

RSpec.describe SidekiqLifecycle::SidekiqCompat do
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
