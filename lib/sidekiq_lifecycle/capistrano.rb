# frozen_string_literal: true

require "capistrano/plugin"
require "json"
require "shellwords"
require_relative "version"

module SidekiqLifecycle
  # Capistrano's tasks for workers: `require "sidekiq_lifecycle/capistrano"` in the Capfile after `capistrano/deploy`,
  # or in a file of lib/capistrano/tasks, as `generate capistrano` does.
  # docs/deploy/capistrano.md says what happens when.
  #
  # It runs where somebody deploys, and not where Sidekiq is: neither Sidekiq nor the native part is loaded. All that is
  # to be known of a worker the native command says, on the worker's own host.
  class CapistranoPlugin < Capistrano::Plugin
    # Settings, with what they are unless `config/deploy.rb` says otherwise.
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

    # Waits before `deploy:publishing`, so that a deploy which fails there has changed nothing: `current` is still the
    # old release, and what wakes the workers starts that one.
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

        desc "Wait until the workers have finished every job in hand, for :sidekiq_drain_timeout at most"
        task(:wait_drained) { wait_drained }

        desc "Restart the workers, and wait until they are ready, for :sidekiq_start_timeout at most"
        task(:restart) { on_workers { restart } }

        desc "Restart the workers of hosts on which one is quiet: nothing else makes it take jobs again"
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
                                  "(:sidekiq_roles): no worker is looked after")
      end
      on(hosts) { |host| block.call(host) }
    end

    def quiet
      lifecycle(:quiet) if anyone?("nothing to quiet")
    end

    # The command has said why itself; here it is said once, when all hosts have had their time.
    def wait_drained
      late = Queue.new
      on_workers { |host| late << host.hostname unless drained? }
      return if late.empty?

      where = "not drained, as said above: #{Array.new(late.size) { late.pop }.sort.join(", ")}"
      raise "#{where}; no worker has been restarted" if fetch(:sidekiq_when_not_drained) == :fail

      SSHKit.config.output.warn("#{where}; :sidekiq_when_not_drained is :go_on, and jobs have Sidekiq's -t left")
    end

    def drained?
      !anyone?("nothing to wait for") ||
        lifecycle(:wait, :drained, "--timeout", fetch(:sidekiq_drain_timeout), raise_on_non_zero_exit: false)
    end

    def restart
      backend.execute(*words(:sidekiq_systemctl), :restart, *words(:sidekiq_units).map(&:shellescape))
      with_gem { lifecycle(:wait, :ready, "--timeout", fetch(:sidekiq_start_timeout)) }
    end

    # One that boots may have been told to be quiet already, and would be as soon as it has started. What goes wrong on
    # one host must not keep the others from being woken.
    def wake(host)
      restart if living.any? { |process| process.dig("record", "state") != "running" }
    rescue StandardError => e
      backend.error "#{host}: could not be woken, and takes no jobs: #{e.message}"
    end

    def status(host)
      table = registered? && with_gem { lifecycle(:status, with: :capture) }
      table ||= "No Sidekiq has registered in #{directory}."
      # In one piece: hosts answer at the same time.
      $stdout.print "#{host}\n#{table}\n"
    end

    # Those that exist, as docs/json.md describes them. With `cap --dry-run` nothing is answered.
    def living
      said = registered? ? with_gem { lifecycle(:status, "--json", with: :capture) }.to_s : ""
      said.empty? ? [] : JSON.parse(said).fetch("processes").select { |process| process["exists"] }
    end

    # Asked first, and not of the command: before the first deploy there is none.
    def registered?
      backend.test("[ -d #{directory.shellescape}/processes ] && [ -d #{current_path.to_s.shellescape} ]")
    end

    # In a release from before this gem, as after a rollback, there is no such command, and nobody who registers.
    def with_gem
      yield
    rescue SSHKit::Command::Failed
      raise if backend.within(current_path) { backend.test(*words(:sidekiq_lifecycle_command), :path) }

      backend.warn("sidekiq-lifecycle cannot be called in #{current_path}, which is taken for a release from before " \
                   "it: its workers can be restarted, but not quieted or waited for")
      nil
    end

    def lifecycle(*arguments, with: :execute, **options)
      command = [*words(:sidekiq_lifecycle_command), *arguments, "--dir", directory.shellescape]
      backend.within(current_path) { backend.public_send(with, *command, options) }
    end

    # Whether a Sidekiq is there. That none is, is no error.
    def anyone?(otherwise)
      return true if living.any?

      backend.info("No Sidekiq runs with #{directory}: #{otherwise}")
      false
    end

    def directory = fetch(:sidekiq_lifecycle_dir).to_s

    # SSHKit takes a command and its arguments apart only if they come apart.
    def words(setting) = Array(fetch(setting)).flat_map { |word| word.to_s.split }
  end
end

install_plugin SidekiqLifecycle::CapistranoPlugin
