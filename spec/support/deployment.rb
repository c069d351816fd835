# frozen_string_literal: true

require "fileutils"
require_relative "waiting"

# An application to deploy with Capistrano: its repository, with the files of examples/capistrano. Only the stage is
# ours.
class Deployment
  include Waiting

  EXAMPLE = File.expand_path("../../examples/capistrano", __dir__)

  attr_reader :repository

  # @param directory [String] an empty one
  # @param redis [String] its URL
  # @param shared [String] the directory for the jobs' notes and the files they wait for, as the workers see it
  def initialize(directory, redis:, shared:)
    @repository, @output = %w[repository deploys].map { |name| File.join(directory, name) }
    @redis = redis
    @shared = shared
    FileUtils.cp_r(EXAMPLE, repository)
    # Capistrano's own.
    File.write(File.join(repository, ".gitignore"), "log/\n")
    git("init", "--quiet", "--initial-branch=main")
    commit("first")
  end

  # @param ruby [String] the stage's file; an example adds Ruby to it in $SETTINGS
  def stage=(ruby)
    File.write(File.join(repository, "config/deploy/production.rb"), "#{ruby}\neval ENV.fetch(\"SETTINGS\", \"\")\n")
  end

  # A release whose jobs note which release they belong to. A job waits for a file `go`.
  # @param gem [Boolean] false: from before the gem
  def commit(release, gem: true)
    File.write(File.join(repository, "Gemfile"), %(gem "sidekiq"\n#{%(gem "sidekiq_lifecycle"\n) if gem}))
    File.write(File.join(repository, "config/sidekiq.yml"), ":require: ./app.rb\n:concurrency: 1\n:timeout: 1\n")
    File.write(File.join(repository, "app.rb"), <<~RUBY)
      require "sidekiq"
      #{%(require "sidekiq_lifecycle") if gem}
      Sidekiq.configure_server do |config|
        config.redis = { url: #{@redis.inspect} }
        #{"SidekiqLifecycle.install(config)" if gem}
      end
      def note(text) = File.write("#{@shared}/notes", "\#{text}\\n", mode: "a")

      class Work
        include Sidekiq::Worker
        def perform(name)
          note "\#{name} begins"
          sleep 0.02 until File.exist?("#{@shared}/go")
          note "\#{name} ends in #{release}"
        end
      end
    RUBY
    git("add", ".")
    git("commit", "--quiet", "--message", release)
  end

  # @return [Array(Integer, String)] exit status and what was printed
  def cap(*arguments, **environment) = begin_cap(*arguments, **environment).value

  # @return [Thread] its value is that of {#cap}
  def begin_cap(*arguments, **environment)
    from = output.bytesize
    @pid = spawn(environment.transform_keys(&:to_s), "cap", "production", *arguments,
                 chdir: repository, in: File::NULL, out: [@output, "a"], err: %i[child out])
    Thread.new(@pid) do |pid|
      status = Process.wait2(pid).last
      [status.exitstatus, output.byteslice(from..)]
    end
  end

  # Ctrl-C.
  def interrupt = Process.kill(:INT, @pid)

  # Everything printed since the first deploy.
  def output = File.exist?(@output) ? File.read(@output) : ""

  def wait_for_output(text) = wait_until("the deploy says #{text}") { output.include?(text) }

  private

  def git(*arguments)
    identity = %w[-c user.name=Shop -c user.email=shop@example.com]
    system("git", "-C", repository, *identity, "-c", "safe.directory=*", *arguments, exception: true)
  end
end
