# frozen_string_literal: true

require "rbconfig"

# A file system that can be made to hang, like a network file system whose server is gone: every access waits until it
# works again. It is mounted at the path until it is removed, and needs root and /dev/fuse.
#
# It implements the kernel's FUSE protocol (linux/fuse.h) in a separate process, which runs this file; a thread of ours
# would wait for itself. To hang, it finishes the current request and reads no further one, so that waiting processes
# can be killed (request_wait_answer in the kernel's fs/fuse/dev.c).
class HangingDisk
  def self.missing
    return "needs root" unless Process.uid.zero?

    File.open("/dev/fuse", "r+") { nil }
  rescue SystemCallError => e
    "FUSE cannot be used here: #{e.message}"
  end

  def initialize(path)
    @path = path
    @device = File.open("/dev/fuse", "r+b")
    options = "fd=#{@device.fileno},rootmode=40755,user_id=0,group_id=0,allow_other"
    @control, control = IO.pipe.reverse
    answer, @answers = IO.pipe.reverse
    @pid = spawn(RbConfig.ruby, __FILE__, in: control, out: answer, 3 => @device, close_others: true)
    [control, answer].each(&:close)
    system("mount", "-i", "-t", "fuse", "-o", options, "hanging", path, @device => @device, exception: true)
    @device.close
  end

  def hang = tell("h")
  def go_on = tell("g")

  def remove
    system("umount", "--lazy", @path)
    Process.kill(:KILL, @pid)
    Process.wait(@pid)
  end

  private

  def tell(word)
    @control.syswrite(word)
    @answers.sysread(1)
  end

  # Answers the kernel's requests from memory.
  class Server
    # linux/fuse.h, `enum fuse_opcode`
    CALLS = { 1 => :lookup, 3 => :getattr, 4 => :setattr, 9 => :mkdir, 10 => :unlink, 11 => :unlink, 12 => :rename,
              14 => :opened, 15 => :read, 16 => :write, 17 => :statfs, 18 => :nothing, 20 => :nothing, 26 => :init,
              27 => :opened, 28 => :readdir, 29 => :nothing, 30 => :nothing, 35 => :create, 45 => :rename2 }.freeze
    UNANSWERED = [2, 36, 42].freeze # FORGET, INTERRUPT, BATCH_FORGET

    Node = Struct.new(:id, :mode, :contents, :time, :uid) do
      def directory? = contents.is_a?(Hash)

      # struct fuse_attr
      def attributes
        size = directory? ? 0 : contents.bytesize
        [id, size, 0, *[time] * 3, 0, 0, 0, mode, directory? ? 2 : 1, uid, 0, 0, 4096, 0].pack("Q6L10")
      end
    end

    def initialize(device, control, answers)
      @device = device
      @control = control
      @answers = answers
      @nodes = {}
      add(0o40755, {}, 0)
    end

    def run
      hangs = false
      loop do
        readable, = IO.select(hangs ? [@control] : [@device, @control])
        if readable.include?(@control)
          hangs = @control.sysread(1) == "h"
          @answers.syswrite(".")
        else
          serve(@device.sysread(1 << 18))
        end
      end
    rescue Errno::ENODEV
      nil # it was unmounted
    end

    private

    # struct fuse_in_header, struct fuse_out_header
    def serve(request)
      _, code, unique, id, uid = request.unpack("LLQQL")
      return if UNANSWERED.include?(code)

      answer = CALLS.key?(code) ? send(CALLS[code], @nodes[id], request.byteslice(40..), uid) : -Errno::ENOSYS::Errno
      error, body = answer.is_a?(Integer) ? [answer, ""] : [0, answer]
      @device.syswrite([16 + body.bytesize, error, unique].pack("LlQ") + body)
    rescue Errno::ENOENT
      nil # it was interrupted
    end

    def init(_node, body, _uid)
      major, minor, read_ahead = body.unpack("L3")
      [major, [minor, 31].min, read_ahead, 0, 0, 0, 1 << 17, 1, 0, 0].pack("L4S2L2S2") + ("\0" * 32)
    end

    def lookup(node, body, _uid) = entry(node.contents[name(body)])
    def getattr(node, _body, _uid) = [0, 0, 0].pack("QLL") + node.attributes
    def opened(node, _body, _uid) = [node.id, 0, 0].pack("QLL")
    def nothing(_node, _body, _uid) = ""
    def statfs(_node, _body, _uid) = [*[1 << 20] * 5, 4096, 255, 4096, 0].pack("Q5L4") + ("\0" * 24)

    # struct fuse_setattr_in; only the mode and the size are ever changed.
    def setattr(node, body, _uid)
      valid, _, _, size, _, _, _, _, _, _, _, _, mode = body.unpack("LLQ6L3LL")
      node.mode = (node.mode & 0o170000) | (mode & 0o7777) if valid.anybits?(1)
      node.contents = node.contents.byteslice(0, size).ljust(size, "\0") if valid.anybits?(8)
      getattr(node, body, nil)
    end

    def mkdir(node, body, uid)
      mode, umask = body.unpack("LL")
      entry(node.contents[name(body, 8)] = add(0o40000 | (mode & ~umask), {}, uid))
    end

    def create(node, body, uid)
      _, mode, umask = body.unpack("L3")
      created = add(0o100000 | (mode & 0o7777 & ~umask), String.new, uid)
      entry(node.contents[name(body, 16)] = created) + opened(created, nil, nil)
    end

    def unlink(node, body, _uid) = node.contents.delete(name(body)) ? "" : -Errno::ENOENT::Errno

    def rename(node, body, uid) = move(node, body, 8, uid)
    def rename2(node, body, uid) = move(node, body, 16, uid)

    def move(node, body, start, _uid)
      from, to = body.byteslice(start..).split("\0")
      @nodes[body.unpack1("Q")].contents[to] = node.contents.delete(from)
      ""
    end

    # struct fuse_read_in, struct fuse_write_in
    def read(node, body, _uid)
      _, offset, size = body.unpack("QQL")
      node.contents.byteslice(offset, size) || ""
    end

    def write(node, body, _uid)
      _, offset, size = body.unpack("QQL")
      node.contents = node.contents.ljust(offset, "\0")
      node.contents[offset, size] = body.byteslice(40, size)
      [size, 0].pack("LL")
    end

    # struct fuse_dirent
    def readdir(node, body, _uid)
      _, offset, size = body.unpack("QQL")
      answer = String.new
      node.contents.to_a.drop(offset).each.with_index(offset + 1) do |(name, child), next_offset|
        entry = [child.id, next_offset, name.bytesize, child.mode >> 12, name].pack("QQLLa*")
        entry << ("\0" * (-entry.bytesize % 8))
        break if answer.bytesize + entry.bytesize > size

        answer << entry
      end
      answer
    end

    # struct fuse_entry_out, valid for no time, so that the kernel always asks again.
    def entry(node)
      node ? [node.id, 0, 0, 0, 0, 0].pack("Q4L2") + node.attributes : -Errno::ENOENT::Errno
    end

    def add(mode, contents, uid)
      id = @nodes.size + 1
      @nodes[id] = Node.new(id, mode, contents.is_a?(String) ? contents.b : contents, Time.now.to_i, uid)
    end

    def name(body, start = 0) = body.byteslice(start..).unpack1("Z*")
  end
end

HangingDisk::Server.new(IO.for_fd(3, "r+b"), $stdin, $stdout).run if $PROGRAM_NAME == __FILE__
