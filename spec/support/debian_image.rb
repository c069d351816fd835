# frozen_string_literal: true

require "open3"
require "tempfile"
require "zlib"

# An image of a Debian with Ruby, Sidekiq, Bundler and Redis, made from the system in which the specs run: what
# `apt-get install` brings for them and no more, so no compiler and no header. It stands for Docker Hub's images of Ruby
# and Redis. Made in seconds, and kept.
module DebianImage
  PACKAGES = %w[ruby-sidekiq bundler redis-server].freeze
  # What a slim image leaves out as well; and what lies behind the links of the root, and so has another path too.
  WITHOUT = %r{\A/(usr/share/(doc|man|locale|i18n|lintian)|bin|lib|lib64|sbin)/}
  # What no package lists, for it comes to be when they are installed.
  MADE = %w[/bin /lib /lib64 /sbin /etc/passwd /etc/group /etc/ld.so.cache /etc/alternatives].freeze

  NAME = "sidekiq_lifecycle-debian"

  class << self
    # Makes it unless it is there.
    # @return [String] its name, which tells what is in it
    def prepare
      paths = files
      name = "#{NAME}:#{File.basename(ENV.fetch("ROOT_OUTSIDE"))}-#{Zlib.crc32(paths.join("\n"))}"
      # Other specs may be about to make it as well.
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

      # Those before it are of systems that were replaced; where one is in use, Docker keeps it.
      former = read("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", NAME).split - [name]
      Open3.capture2e("docker", "rmi", *former) if former.any?
    ensure
      list&.close!
    end
  end
end
