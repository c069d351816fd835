# frozen_string_literal: true

require "socket"
require_relative "waiting"

# Stands for systemd, which a chroot doesn't have, with what `systemctl restart UNIT…` does: TERM, the wait for the end,
# and a new start in the working directory as it is by then. What it is called with, and what each unit did, is noted.
class Supervisor
  include Waiting

  Unit = Struct.new(:command, :directory, :environment, :log, :pid)

  # What stands for systemctl, as a command to be called from a shell.
  attr_reader :systemctl

  # Each start and end: "one starts in /…/releases/…".
  attr_reader :notes

  # @param directory [String] an empty one, for the socket and the logs
  def initialize(directory)
    @directory = directory
    @units = {}
    @notes = []
    @server = UNIXServer.new(File.join(directory, "socket"))
    @systemctl = File.join(directory, "systemctl")
    File.write(@systemctl, <<~RUBY, perm: 0o755)
      #!/usr/bin/env -S ruby --disable=gems
      require "socket"
      UNIXSocket.open(#{@server.path.inspect}) do |socket|
        socket.puts ARGV.join(" ")
        answer = socket.gets.to_s.chomp
        abort answer unless answer == "done"
      end
    RUBY
    @listening = Thread.new { loop { Thread.new(@server.accept) { |socket| answer(socket) } } }
  end

  # Makes a unit known, as `systemctl daemon-reload` does; it does not start it.
  def add(name, *command, directory:, environment: {})
    @units[name] = Unit.new(command, directory, environment, File.join(@directory, "#{name}.log"))
  end

  def pid(name) = @units.fetch(name).pid

  def to_s
    [*@notes, *Dir[File.join(@directory, "*.log")].map { |log| "--- #{log} ---\n#{File.read(log)}" }].join("\n")
  end

  def stop
    @listening.kill
    @server.close
    @units.each_value.filter_map(&:pid).each { |pid| end_group(pid) }
  end

  private

  def answer(socket)
    verb, *names = socket.gets.split
    notes << [verb, *names].join(" ")
    unknown = names - @units.keys
    raise "Unit #{unknown.first} not found." if unknown.any?

    names.map { |name| Thread.new { restart(name) } }.each(&:join)
    socket.puts "done"
  rescue StandardError => e
    socket.puts e.message
  ensure
    socket.close
  end

  def restart(name)
    unit = @units.fetch(name)
    if unit.pid
      Process.kill(:TERM, unit.pid)
      wait_until("#{name} ends") { unit.pid.nil? }
    end
    start(name, unit)
  end

  def start(name, unit)
    pid = spawn(unit.environment, *unit.command, chdir: unit.directory, in: File::NULL, out: [unit.log, "a"],
                                                 err: %i[child out], pgroup: true)
    unit.pid = pid
    notes << "#{name} starts in #{File.realpath(unit.directory)}"
    Thread.new do
      Process.wait(pid)
      notes << "#{name} ends"
      unit.pid = nil
    end
  end

  def end_group(leader)
    Process.kill(:KILL, -leader)
  rescue Errno::ESRCH
    nil
  end
end
