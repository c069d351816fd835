# frozen_string_literal: true

require "capistrano/plugin"
require "json"
require "shellwords"
require_relative "version"

module SidekiqLifecycle
  # Capistrano's tasks for workers: `require "sidekiq_lifecycle/capistrano"` in the Capfile after `capistrano/deploy`,
  # or in a file of lib/capistrano/tasks, as `generate capistrano` does.
  # docs/deploy/capistrano.md describes when each task runs.
  #
  # It runs on the machine that deploys, and loads neither Sidekiq nor the native part. It gets the state of a worker
  # from the native command on the worker's host.
  class CapistranoPlugin < Capistrano::Plugin
    # Settings and their defaults, which `config/deploy.rb` can change.
    def set_defaults
      set_if_empty :sidekiq_roles, :worker
      set_if_empty :sidekiq_units, %w[sidekiq]
      set_if_empty :sidekiq_systemctl, %w[sudo systemctl]
      set_if_empty :sidekiq_lifecycle_command, %w[bundle exec sidekiq-lifecycle]
      set_if_empty :sidekiq_lifecycle_dir, -> { shared_path.join("tmp/sidekiq") }
      set_if_empty :sidekiq_drain_timeout, "10m"
      set_if_empty :sidekiq_start_timeout, "2m"
      set_if_empty :sidekiq_when_not_drained, :fail
      validate(:sidekiq_when_not_drained) do |key, value|
        next if %i[fail go_on].include?(value)

        raise Capistrano::ValidationError, "#{key.inspect} is #{value.inspect}; set it to :fail or :go_on"
      end
    end

    # Waits before `deploy:publishing`. If the deploy fails there, `current` is still the old release, and waking the
    # workers starts that one.
    def register_hooks
      after "deploy:starting", "sidekiq:quiet"
      before "deploy:publishing", "sidekiq:wait_drained"
      after "deploy:published", "sidekiq:restart"
      before "deploy:starting", "sidekiq:wake_if_failed"
    end

    # Each can be called by itself: `cap production sidekiq:status`.
    def define_tasks
      namespace :sidekiq do
        desc "Tell the workers to take no more jobs"
        task(:quiet) { on_workers { quiet } }

        desc "Wait until the workers have finished every running job, for :sidekiq_drain_timeout at most"
        task(:wait_drained) { wait_drained }

        desc "Restart the workers, and wait until they are ready, for :sidekiq_start_timeout at most"
        task(:restart) { on_workers { restart } }

        desc "Restart the workers of hosts on which one is quiet; only a restart makes it take jobs again"
        task(:wake) { on_workers { |host| wake(host) } }

        desc "Show every worker"
        task(:status) { on_workers { |host| status(host) } }

        # Capistrano's own deploy:failed is not invoked for a rollback, nor where a task ends everything with `exit 1`.
        task(:wake_if_failed) { at_exit { invoke "sidekiq:wake" if $! } }
      end
    end

    private

    # On all hosts at once.
    def on_workers(&block)
      hosts = roles(*Array(fetch(:sidekiq_roles)))
      if hosts.empty?
        SSHKit.config.output.warn("No server has the role #{Array(fetch(:sidekiq_roles)).join(" or ")} " \
                                  "(:sidekiq_roles): no worker is quieted or restarted")
      end
      on(hosts) { |host| block.call(host) }
    end

    def quiet
      lifecycle(:quiet) if anyone?("nothing to quiet")
    end

    # The command prints the reason on each host. This reports the hosts together, when all of them have finished.
    def wait_drained
      late = Queue.new
      on_workers { |host| late << host.hostname unless drained? }
      return if late.empty?

      where = "not drained, see above: #{Array.new(late.size) { late.pop }.sort.join(", ")}"
      raise "#{where}; no worker has been restarted" if fetch(:sidekiq_when_not_drained) == :fail

      SSHKit.config.output.warn("#{where}; :sidekiq_when_not_drained is :go_on, so the restart gives running jobs " \
                                "Sidekiq's -t")
    end

    def drained?
      !anyone?("nothing to wait for") ||
        lifecycle(:wait, :drained, "--timeout", fetch(:sidekiq_drain_timeout), raise_on_non_zero_exit: false)
    end

    def restart
      backend.execute(*words(:sidekiq_systemctl), :restart, *words(:sidekiq_units).map(&:shellescape))
      with_gem { lifecycle(:wait, :ready, "--timeout", fetch(:sidekiq_start_timeout)) }
    end

    # A booting worker may already have been told to be quiet, and would go quiet once it has started. A failure on one
    # host must not prevent the wake on others.
    def wake(host)
      restart if living.any? { |process| process.dig("record", "state") != "running" }
    rescue StandardError => e
      backend.error "#{host}: its workers could not be woken, and take no jobs: #{e.message}"
    end

    def status(host)
      table = registered? && with_gem { lifecycle(:status, with: :capture) }
      table ||= "No Sidekiq has registered in #{directory}."
      # One call, because hosts answer at the same time.
      $stdout.print "#{host}\n#{table}\n"
    end

    # The existing processes, as docs/json.md describes them. With `cap --dry-run` there is no answer.
    def living
      report = registered? ? with_gem { lifecycle(:status, "--json", with: :capture) }.to_s : ""
      report.empty? ? [] : JSON.parse(report).fetch("processes").select { |process| process["exists"] }
    end

    # Checked without the command, which does not exist before the first deploy.
    def registered?
      backend.test("[ -d #{directory.shellescape}/processes ] && [ -d #{current_path.to_s.shellescape} ]")
    end

    # A release from before this gem, as after a rollback, has no such command, and its workers do not register.
    def with_gem
      yield
    rescue SSHKit::Command::Failed
      raise if backend.within(current_path) { backend.test(*words(:sidekiq_lifecycle_command), :path) }

      backend.warn("sidekiq-lifecycle cannot be run in #{current_path}, which seems to be a release from before this " \
                   "gem: its workers can be restarted, but not quieted or waited for")
      nil
    end

    def lifecycle(*arguments, with: :execute, **options)
      command = [*words(:sidekiq_lifecycle_command), *arguments, "--dir", directory.shellescape]
      backend.within(current_path) { backend.public_send(with, *command, options) }
    end

    # Whether a Sidekiq runs there. It is not an error if none does.
    def anyone?(otherwise)
      return true if living.any?

      backend.info("No Sidekiq runs with #{directory}: #{otherwise}")
      false
    end

    def directory = fetch(:sidekiq_lifecycle_dir).to_s

    # SSHKit needs a command and its arguments as separate words.
    def words(setting) = Array(fetch(setting)).flat_map { |word| word.to_s.split }
  end
end

install_plugin SidekiqLifecycle::CapistranoPlugin
