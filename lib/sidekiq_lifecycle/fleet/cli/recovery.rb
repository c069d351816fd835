# frozen_string_literal: true

require_relative "../../recovery_log"
require_relative "../format"
require_relative "../killed_jobs"
require_relative "operator"

module SidekiqLifecycle
  class Fleet
    module CLI
      # `fleet recover`: what it does, and what there is to say about it.
      #
      # @api private
      class Recovery
        # Nothing waits.
        NOTHING = "no job of a killed process waits to be put back"

        # @param killed_jobs [KilledJobs]
        # @param options [Hash{String => Object}] the command's
        def initialize(killed_jobs, options)
          @killed_jobs = killed_jobs
          @options = options
          @outcomes = []
        end

        # Puts them back.
        #
        # @return [void]
        # @raise [Fleet::Error]
        def call = @outcomes = @killed_jobs.recover(by:)

        # @return [Boolean] whether there is something to tell others
        def any? = @outcomes.any?

        # @return [Boolean] whether nothing is left that should have been put back
        def complete? = warnings.empty?

        # @return [Array<String>] for the terminal, and for webhooks
        def lines
          done = @outcomes.map { |outcome| RecoveryLog.sentence(outcome) }
          [*done, *warnings].then { |lines| lines.empty? ? [NOTHING] : lines }.map { |line| Text.one_line(line) }
        end

        # @return [String] for a webhook
        def text
          jobs = Format.count(@outcomes.size, "job of a killed process", "jobs of killed processes")
          ["#{by} put back #{jobs}:", *lines].join("\n")
        end

        # @return [Hash{Symbol => Object}] for `--json` and webhooks
        def facts = { action: "recover", by:, jobs: @outcomes.map { |outcome| outcome.killed_job.to_h }, warnings: }

        private

        def by = @by ||= Operator.name(@options)

        def warnings = @warnings ||= @killed_jobs.warnings
      end
    end
  end
end
