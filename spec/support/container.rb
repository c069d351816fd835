# frozen_string_literal: true

require "json"
require "net/http"
require "rubygems/package"
require "socket"
require "stringio"

# A real container of the Docker engine, through HTTP over its socket, like the command `docker`.
#
# The image consists of a few empty directories. /usr of the Debian system in which the specs run (see script/lib.sh) is
# mounted read-only, and so are the files in /etc that su and sudo need. Its users are in the application's file
# `passwd`, if there is one.
class Container
  SOCKET = "/run/docker.sock"
  # An existing image of this name is used as it is. Increase the number with each change of the directories.
  IMAGE = "sidekiq_lifecycle-empty:1"
  SYSTEM = %w[/usr /etc/alternatives /etc/pam.d /etc/security /etc/sudoers].freeze
  DIRECTORIES = %w[app build dev etc proc run sbin sys tmp usr var].freeze

  # There is no such container or image.
  class NotFound < RuntimeError; end

  class << self
    # @return [String, nil] why there can be no container here
    def missing
      return "it needs the system that bin/in-sidekiq makes" unless ENV.key?("ROOT_OUTSIDE")

      call("GET", "/_ping") && nil
    rescue SystemCallError
      "Docker is not there (nothing answers at #{SOCKET})"
    end

    # A path of ours, as the engine sees it.
    def outside(path) = path.sub(%r{\A/build(?=/)}, ENV.fetch("BUILD_OUTSIDE"))

    # Sends one request, on its own connection.
    # @return [String] the answer's body
    def call(verb, path, body = nil, type: "application/json")
      request = Net::HTTPGenericRequest.new(verb, !body.nil?, true, path, "Host" => "docker", "Content-Type" => type)
      request.body = body
      response = exchange(request, path)
      return response.body if response.code.to_i < 400

      error = response.code == "404" ? NotFound : RuntimeError
      raise error, "Docker: #{verb} #{path}: #{response.code} #{response.body}"
    end

    # Creates the image unless it exists. (Otherwise Docker would keep the old one without a name.)
    def prepare
      call("GET", "/images/#{IMAGE}/json")
    rescue RuntimeError
      call("POST", "/images/create?fromSrc=-&repo=#{IMAGE.sub(":", "&tag=")}", skeleton, type: "application/x-tar")
    end

    # The native command is found as in a Dockerfile that links it into a directory of PATH.
    def environment
      gems = ENV.fetch("GEM_HOME")
      path = [File.dirname(SidekiqLifecycle::CLI.path), "#{gems}/bin", "/usr/sbin", "/usr/bin", "/bin"]
      ["GEM_HOME=#{gems}", "PATH=#{path.join(":")}", "LANG=C.UTF-8", "HOME=/tmp"]
    end

    private

    def exchange(request, path)
      UNIXSocket.open(SOCKET) do |socket|
        connection = Net::BufferedIO.new(socket, read_timeout: 300)
        request.exec(connection, "1.1", path)
        response = Net::HTTPResponse.read_new(connection)
        response.reading_body(connection, true) { response.body }
        response
      end
    end

    # As in Debian, except that /sbin is a directory: `docker run --init` puts its init there, and /usr is read-only.
    def skeleton
      tar = StringIO.new("".b)
      Gem::Package::TarWriter.new(tar) do |writer|
        DIRECTORIES.each { |name| writer.mkdir(name, name == "tmp" ? 0o1777 : 0o755) }
        %w[bin lib lib64].each { |name| writer.add_symlink(name, "usr/#{name}", 0o777) }
      end
      tar.string
    end
  end

  # Starts a container, by default as an ordinary user without capabilities.
  #
  # @param command [Array<String>]
  # @param app [String] the directory that is /app in it, writable
  # @param init [Boolean] as `docker run --init`
  # @param user [Integer] the command's uid
  # @param capabilities [Array<String>] as `docker run --cap-add`
  # @param denied [Array<String>] system calls that its seccomp profile denies; the default profile if there are none
  # @param errno [Integer] what they fail with
  # @param pid_namespace [String] as `docker run --pid`; with "host" the engine's socket is mounted as well
  # @param memory [Integer] as `docker run --memory`, in bytes, and without swap; 0 for no limit
  # @param settings [Hash] further settings, by their names in Docker's API: StopTimeout, Labels
  def initialize(command, app:, init: false, user: 1000, capabilities: [], denied: [], errno: Errno::EPERM::Errno,
                 pid_namespace: "", memory: 0, settings: {})
    engine = pid_namespace == "host" ? ["#{SOCKET}:/var#{SOCKET}"] : []
    host = { NetworkMode: "host", PidMode: pid_namespace, Init: init, CapDrop: ["ALL"], CapAdd: capabilities,
             Memory: memory, MemorySwap: memory, Binds: binds(app) + engine,
             SecurityOpt: ["no-new-privileges", *(profile(denied, errno) if denied.any?)] }
    @app = app
    description = { Image: IMAGE, Cmd: command, WorkingDir: "/app", User: "#{user}:#{user}", Env: Container.environment,
                    HostConfig: host, **settings }
    @id = JSON.parse(Container.call("POST", "/containers/create", JSON.generate(description)))["Id"]
    start
  rescue StandardError
    remove if @id
    raise
  end

  # As `docker restart -t`: a stop, and a start.
  def restart(seconds) = post("restart?t=#{seconds}")

  # As `docker start`, also after its end.
  def start = post("start")

  # As `docker kill -s`.
  def signal(name) = post("kill?signal=SIG#{name}")

  # As `docker stop -t`: TERM to PID 1, and KILL if it still runs after so many seconds.
  def stop(seconds) = post("stop?t=#{seconds}")

  # As `docker kill`.
  def kill = post("kill")

  # Whether it runs. (It may have been removed.)
  def running?
    JSON.parse(get("json")).dig("State", "Running")
  rescue NotFound
    false
  end

  # Waits for its end.
  # @return [Integer] as `docker run` would give it
  def exit_code = JSON.parse(post("wait"))["StatusCode"]

  # @return [Array<String>] the state (ps(1): "Ss", "T", …) and the command of each process
  def processes = listed.values

  # As `docker exec`.
  # @param settings [Hash] as Docker's API calls them: User, Privileged
  # @return [Array(Integer, String)] the exit code, and what it printed
  def exec(*command, **settings)
    id = JSON.parse(post("exec", Cmd: command, AttachStdout: true, AttachStderr: true, **settings))["Id"]
    output = text(Container.call("POST", "/exec/#{id}/start", JSON.generate(Detach: false, Tty: false)))
    [JSON.parse(Container.call("GET", "/exec/#{id}/json"))["ExitCode"], output]
  end

  # What it has printed.
  def log = text(get("logs?stdout=1&stderr=1"))

  # As `docker rm -f`.
  def remove = Container.call("DELETE", "/containers/#{@id}?force=true")

  # Removes it even if it cannot be killed because a relay holds it: then the relay is ended from outside.
  def clear
    attempts ||= 0
    remove
  rescue NotFound
    nil
  rescue RuntimeError
    raise if (attempts += 1) > 5

    end_relays
    sleep 1
    retry
  end

  private

  # @return [Hash{String => String}] by the pid outside: a process's state and command; none if it has just ended
  def listed
    JSON.parse(get("top?ps_args=-eo%20pid,stat,args"))["Processes"].to_a.to_h { |pid, *words| [pid, words.join(" ")] }
  end

  # Sends it from a container that sees all processes, like an operator on the machine.
  def end_relays
    pids = listed.select { |_, process| process.match?(/\brelay\b/) }.keys
    return if pids.empty?

    operator = Container.new(["kill", "-KILL", *pids], app: @app, user: 0, capabilities: ["KILL"],
                                                       pid_namespace: "host")
    operator.exit_code
    operator.remove
  rescue RuntimeError
    nil # It may have ended meanwhile.
  end

  def post(action, body = nil) = Container.call("POST", "/containers/#{@id}/#{action}", body && JSON.generate(body))
  def get(what) = Container.call("GET", "/containers/#{@id}/#{what}")

  # The output comes in chunks, each after eight bytes that contain its length.
  def text(body)
    stream = StringIO.new(body)
    pieces = +""
    while (header = stream.read(8))
      pieces << stream.read(header.unpack1("x4N"))
    end
    pieces.force_encoding("UTF-8").scrub
  end

  def binds(app)
    gems = ENV.fetch("GEM_HOME")
    users = File.join(app, "passwd")
    [*SYSTEM.select { |path| File.exist?(path) }.map { |path| "#{ENV.fetch("ROOT_OUTSIDE")}#{path}:#{path}:ro" },
     *("#{Container.outside(users)}:/etc/passwd:ro" if File.exist?(users)),
     "#{Container.outside(gems)}:#{gems}:ro", "#{Container.outside(app)}:/app"]
  end

  def profile(denied, errno)
    rule = { names: denied, action: "SCMP_ACT_ERRNO", errnoRet: errno }
    "seccomp=#{JSON.generate(defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule])}"
  end
end
