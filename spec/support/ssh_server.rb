# frozen_string_literal: true

require "etc"
require "fileutils"
require_relative "redis_server"
require_relative "waiting"

# A real sshd on a free port of the loopback interface, which lets in whoever runs the specs, with a key of its own.
class SshServer
  include Waiting

  PROGRAM = "/usr/sbin/sshd"

  def self.here? = File.executable?(PROGRAM)

  attr_reader :port, :key, :user

  # @param directory [String] an empty one, for keys and the log
  def initialize(directory)
    @directory = directory
    @user = Etc.getpwuid.name
    @key = file("key")
    [@key, file("host_key")].each do |path|
      system("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, exception: true)
    end
    FileUtils.cp("#{@key}.pub", file("authorized_keys"))
    # Where sshd keeps its unprivileged half; a system's own start makes it.
    FileUtils.mkdir_p("/run/sshd") if Process.uid.zero?
    start
  end

  def log = File.exist?(file("log")) ? File.read(file("log")) : ""

  def stop
    Process.kill(:TERM, @pid)
    Process.wait(@pid)
  end

  private

  def file(name) = File.join(@directory, name)

  def start
    @port = RedisServer.free_port
    File.write(file("sshd_config"), configuration)
    @pid = spawn(PROGRAM, "-D", "-E", file("log"), "-f", file("sshd_config"), in: File::NULL)
    wait_until("sshd listens\n#{log}") { log.include?("Server listening on 127.0.0.1") || raise_if_ended }
  end

  def raise_if_ended
    raise "sshd ended:\n#{log}" if Process.wait(@pid, Process::WNOHANG)
  end

  def configuration
    <<~CONFIG
      ListenAddress 127.0.0.1
      Port #{port}
      HostKey #{file("host_key")}
      AuthorizedKeysFile #{file("authorized_keys")}
      PidFile none
      StrictModes no
      UsePAM no
      PasswordAuthentication no
      KbdInteractiveAuthentication no
      PermitRootLogin prohibit-password
    CONFIG
  end
end
