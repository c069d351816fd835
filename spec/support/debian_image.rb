# frozen_string_literal: true

require "open3"
require "tempfile"
require "zlib"

# An image of a Debian system with Ruby, Sidekiq, Bundler and Redis, made from the system in which the specs run. It has
# what `apt-get install` brings for these, without compilers and headers. It replaces Docker Hub's images of Ruby and
# Redis. It is made in seconds, and kept.
module DebianImage
  PACKAGES = %w[ruby-sidekiq bundler redis-server].freeze
  # What slim images leave out as well, and what has a second path through the links in the root.
  WITHOUT = %r{\A/(usr/share/(doc|man|locale|i18n|lintian)|bin|lib|lib64|sbin)/}
  # Files that no package lists, because they are created at installation.
  MADE = %w[/bin /lib /lib64 /sbin /etc/passwd /etc/group /etc/ld.so.cache /etc/alternatives].freeze

  NAME = "sidekiq_lifecycle-debian"

  class << self
    # Makes it unless it exists.
    # @return [String] its name, which depends on its contents
    def prepare
      paths = files
      name = "#{NAME}:#{File.basename(ENV.fetch("ROOT_OUTSIDE"))}-#{Zlib.crc32(paths.join("\n"))}"
      # Other specs may be making it at the same time.
      File.open("/build/debian_image.lock", "w") do |lock|
        lock.flock(File::LOCK_EX)
        import(name, paths) unless Open3.capture2e("docker", "image", "inspect", name).last.success?
      end
      name
    end

    private

    def files
      essential = read("dpkg-query", "-W", "-f", "${Essential} ${Package}\n").scan(/^yes (.*)$/).flatten
      needed = read("apt-cache", "depends", "--recurse", "--important", "--installed",
                    "-o", "APT::Cache::ShowVirtuals=false", *PACKAGES, *essential).scan(/^[a-z0-9]\S*/)
      listed = read("dpkg-query", "--listfiles", *needed.uniq).lines(chomp: true).grep(%r{\A/[^.]}).grep_v(WITHOUT)
      (listed + MADE + Dir["/etc/alternatives/*"]).uniq.sort.select { |path| File.exist?(path) || File.symlink?(path) }
    end

    def read(*command)
      out, status = Open3.capture2(*command)
      raise "#{command.first(3).join(" ")}… ended with #{status.exitstatus}" unless status.success?

      out
    end

    def import(name, paths)
      list = Tempfile.new
      File.write(list, paths.map { |path| path.delete_prefix("/") }.join("\0"))
      tar = ["tar", "-C", "/", "-c", "--no-recursion", "--null", "--verbatim-files-from", "-T", list.path]
      statuses = Open3.pipeline(tar, ["docker", "import", "-", name], out: File::NULL)
      raise "#{name} could not be made" unless statuses.all?(&:success?)

      # Older ones belong to systems that were replaced. Docker keeps those that are in use.
      former = read("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", NAME).split - [name]
      Open3.capture2e("docker", "rmi", *former) if former.any?
    ensure
      list&.close!
    end
  end
end
