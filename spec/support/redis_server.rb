# frozen_string_literal: true

require "fileutils"
require "socket"
require "tmpdir"
require_relative "waiting"

# A real Redis of our own, on a free port of the loopback interface.
class RedisServer
  include Waiting

  # Between finding a free port and listening on it somebody else may come.
  class PortTaken < StandardError; end

  attr_reader :port, :pid

  # The one that most examples share; each has a database of its own (see Sandbox).
  def self.shared = @shared ||= new
  def self.stop_shared = @shared&.stop

  def initialize
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

  def url(database = 0) = "redis://127.0.0.1:#{port}/#{database}"

  def start
    FileUtils.mkdir_p(@directory)
    @pid = spawn("redis-server", "--port", port.to_s, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                 "--databases", "512", "--dir", @directory, in: File::NULL, out: File::NULL, err: File::NULL)
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

  # Speaks to Redis without a client library: their interfaces differ between Sidekiq's majors.
  def call(*words, database: 0) = pipelined(words, database:).last

  # Sends the commands together: nothing comes in between.
  def pipelined(*commands, database: 0)
    TCPSocket.open("127.0.0.1", port) do |socket|
      socket.write([["SELECT", database], *commands].map { |words| encode(words) }.join)
      [nil, *commands].map { read_reply(socket) }.drop(1)
    end
  end

  private

  # Not anybody else's, who was quicker to take the port.
  def ours?
    File.identical?(call("CONFIG", "GET", "dir").last, @directory)
  rescue SystemCallError
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
