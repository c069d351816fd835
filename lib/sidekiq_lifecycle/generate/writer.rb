# frozen_string_literal: true

require "fileutils"
require "open3"
require "tempfile"
require_relative "error"

module SidekiqLifecycle
  module Generate
    # Writes files into an application. It asks before it replaces one.
    #
    # @api private
    class Writer
      # @param root [String] the application's root
      # @param force [Boolean] replace what differs without asking
      # @param dry_run [Boolean] only show what would be written
      # @param input [IO] where answers are read, if it is a terminal
      # @param out [IO] where results are printed
      def initialize(root, force:, dry_run:, input: $stdin, out: $stdout)
        @root = root
        @force = force
        @dry_run = dry_run
        @input = input
        @out = out
      end

      # @param files [Hash{String => String}] path below the root => contents
      # @return [void]
      # @raise [Error] if a file cannot be written, or differs and there is no terminal to ask on
      def write(files)
        changes = files.select { |name, contents| changes?(name, contents) }
        refuse(changes) unless @dry_run || @force || @input.tty?
        changes.each { |name, contents| settle(name, contents) }
      rescue Errno::EPIPE
        raise # the caller exits without a message
      rescue SystemCallError => e
        raise Error, "#{e.message}; nothing of that file was changed"
      end

      private

      def path(name) = File.join(@root, name)

      def there?(name) = File.exist?(path(name)) || File.symlink?(path(name))

      def changes?(name, contents)
        same = there?(name) && File.binread(path(name)) == contents.b
        @out.puts "unchanged  #{name}" if same
        !same
      end

      def preview(name, contents)
        @out.puts "would #{there?(name) ? "replace" : "write"} #{name}"
        show(name, contents)
      end

      # Refuses before it writes anything: half of the files would not deploy anything.
      def refuse(changes)
        differing = changes.select { |name, _| there?(name) }
        return if differing.empty?

        differing.each { |name, contents| show(name, contents) }
        raise Error, "#{differing.keys.join(", ")} would change, and there is no terminal to ask on; nothing was " \
                     "written; --force replaces, --dry-run only shows"
      end

      def settle(name, contents)
        return preview(name, contents) if @dry_run
        return replace(name, contents) if @force || !there?(name)

        show(name, contents)
        case ask("Replace #{name}? (y: yes, n: no, q: quit) ")
        when "y" then replace(name, contents)
        when "n" then @out.puts "kept       #{name}"
        else raise Error, "stopped at #{name}; files written before remain"
        end
      end

      # The first letter of the answer; nil if the terminal is gone.
      def ask(question)
        loop do
          @out.print question
          @out.flush
          answer = @input.gets&.strip&.downcase
          return answer && answer[0] if [nil, "y", "yes", "n", "no", "q", "quit"].include?(answer)
        end
      end

      def show(name, contents)
        Tempfile.create("sidekiq-lifecycle") do |wanted|
          wanted.write(contents)
          wanted.flush
          now = there?(name) ? path(name) : File::NULL
          labels = ["--label", name, "--label", "#{name} (generated)"]
          diff, status = Open3.capture2("diff", "-u", *labels, now, wanted.path)
          raise Error, "diff cannot compare #{name} with what would be written" if status.exitstatus.to_i > 1

          @out.puts diff
        rescue Errno::ENOENT
          raise Error, "the program diff, which shows changes, is not installed; --force replaces without it"
        end
      end

      # A reader sees the old file or the new one. A symbolic link stays one.
      def replace(name, contents)
        is_new = !there?(name)
        FileUtils.mkdir_p(File.dirname(path(name)))
        place = is_new ? path(name) : File.realpath(path(name))
        mode = is_new ? 0o666 & ~File.umask : File.stat(place).mode & 0o7777
        Tempfile.create(".sidekiq-lifecycle", File.dirname(place)) do |aside|
          aside.write(contents)
          aside.chmod(mode)
          aside.fsync
          File.rename(aside.path, place)
        end
        @out.puts "#{is_new ? "wrote     " : "replaced  "} #{name}"
      end
    end
  end
end
