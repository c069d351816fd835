# frozen_string_literal: true

require "fileutils"
require "openssl"
require "socket"
require "tmpdir"
require_relative "certificates"
require_relative "waiting"

# A real Redis for the specs, on a free port of the loopback interface; also with a password, with TLS, or as a Sentinel
# of another one.
class RedisServer
  include Waiting

  # Another process took the port after it was found free.
  class PortTaken < StandardError; end

  attr_reader :port, :pid

  @lock = Mutex.new

  # The Redis that most examples share; each has its own database (see Sandbox). The first thread that needs it starts
  # it.
  def self.shared = @lock.synchronize { @shared ||= new }
  def self.stop_shared = @shared&.stop

  # @param password [String, nil]
  # @param certificates [Certificates, nil] with these it accepts only TLS
  # @param watches [RedisServer, nil] makes it a Sentinel, which names the other one "main"
  def initialize(password: nil, certificates: nil, watches: nil)
    @password = password
    @certificates = certificates
    @watches = watches
    @directory = Dir.mktmpdir("redis")
    begin
      @port = RedisServer.free_port
      start
    rescue PortTaken
      retry
    end
  end

  def self.free_port
    server = TCPServer.new("127.0.0.1", 0)
    server.addr[1]
  ensure
    server&.close
  end

  def url(database = 0) = "#{@certificates ? "rediss" : "redis"}://127.0.0.1:#{port}/#{database}"

  def start
    FileUtils.mkdir_p(@directory)
    @pid = spawn(*command, in: File::NULL, out: File::NULL, err: File::NULL)
    wait_until("Redis answers") { ours? || raise_if_taken }
  end

  def stop
    return unless @pid

    Process.kill(:KILL, @pid)
    Process.wait(@pid)
    @pid = nil
    FileUtils.rm_rf(@directory)
    self
  end

  # Suspends it, like a Redis whose machine hangs: it accepts connections, and answers nothing.
  def freeze_process = Process.kill(:STOP, @pid)
  def thaw_process = Process.kill(:CONT, @pid)

  # Calls Redis without a client library, because their interfaces differ between Sidekiq's majors.
  def call(*words, database: 0) = pipelined(words, database:).last

  # Sends the commands together, so that no other command comes in between.
  def pipelined(*commands, database: 0)
    before = []
    before << ["AUTH", @password] if @password
    before << ["SELECT", database] if database.positive?
    connected do |socket|
      socket.write([*before, *commands].map { |words| encode(words) }.join)
      [*before, *commands].map { read_reply(socket) }.drop(before.size)
    end
  end

  private

  def command
    return ["redis-server", sentinel_file, "--sentinel"] if @watches

    command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--databases", "512",
               "--dir", @directory]
    command += ["--requirepass", @password] if @password
    return [*command, "--port", port.to_s] unless @certificates

    [*command, "--port", "0", "--tls-port", port.to_s, "--tls-auth-clients", "no",
     "--tls-cert-file", @certificates.certificate, "--tls-key-file", @certificates.key,
     "--tls-ca-cert-file", @certificates.authority]
  end

  # A Sentinel keeps its state in this file.
  def sentinel_file
    File.join(@directory, "sentinel.conf").tap do |file|
      File.write(file, <<~CONF)
        bind 127.0.0.1
        port #{port}
        dir #{@directory}
        sentinel monitor main 127.0.0.1 #{@watches.port} 1
      CONF
    end
  end

  def connected
    TCPSocket.open("127.0.0.1", port) do |socket|
      return yield socket unless @certificates

      context = OpenSSL::SSL::SSLContext.new
      context.set_params(ca_file: @certificates.authority)
      encrypted = OpenSSL::SSL::SSLSocket.new(socket, context)
      encrypted.hostname = "127.0.0.1"
      yield encrypted.connect
    end
  end

  # Whether the Redis on the port is this one, and not that of another process.
  def ours?
    call("INFO", "server")[/^process_id:(\d+)/, 1].to_i == @pid
  rescue SystemCallError, OpenSSL::SSL::SSLError, RuntimeError
    false
  end

  def raise_if_taken
    return unless Process.wait(@pid, Process::WNOHANG)

    @pid = nil
    raise PortTaken, "port #{port} was taken meanwhile"
  end

  def encode(words)
    "*#{words.size}\r\n#{words.map { |word| "$#{word.to_s.bytesize}\r\n#{word}\r\n" }.join}"
  end

  def read_reply(socket)
    line = socket.gets("\r\n").chomp
    rest = line[1..]
    case line[0]
    when "+" then rest
    when "-" then raise "Redis: #{rest}"
    when ":" then rest.to_i
    when "$" then rest == "-1" ? nil : socket.read(rest.to_i + 2).delete_suffix("\r\n")
    when "*" then Array.new(rest.to_i) { read_reply(socket) }
    end
  end
end
