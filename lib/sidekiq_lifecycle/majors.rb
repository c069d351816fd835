# frozen_string_literal: true

module SidekiqLifecycle
  # What is called otherwise in one Sidekiq than in another.
  #
  # @api private
  module Majors
    module_function

    # @return [#[]] what Sidekiq was configured with: a Sidekiq::Config, or a Hash in 6.x
    def options(config) = config.respond_to?(:[]) ? config : config.options

    # @return [Integer] jobs the process can run at once
    def concurrency(config)
      config.respond_to?(:total_concurrency) ? config.total_concurrency : options(config)[:concurrency]
    end

    # 7+: one manager a capsule.
    def capsules? = ::Sidekiq::Launcher.method_defined?(:managers)

    # @return [Array<Sidekiq::Manager>]
    def managers(launcher)
      return [] unless launcher

      capsules? ? launcher.managers : [launcher.manager]
    end

    # @return [Integer] jobs in hand (`WORKER_STATE` until 6.4.1)
    def busy
      processor = ::Sidekiq::Processor
      (processor.const_defined?(:WORK_STATE) ? processor::WORK_STATE : processor::WORKER_STATE).size
    end
  end
end
