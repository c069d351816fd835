# frozen_string_literal: true

require_relative "../fleet"
require_relative "../fleet/request"
require_relative "../fleet/timeline_svg"

module SidekiqLifecycle
  module Web
    # What the page shows. The views only write it down.
    #
    # @api private
    class Page
      # How much the timeline can show, in seconds, by its name in the address.
      PERIODS = { "15min" => 15 * 60, "1h" => 3600, "6h" => 6 * 3600, "24h" => 24 * 3600, "7d" => 7 * 86_400 }.freeze
      # How many of those that have ended are listed.
      GONE = 20
      # How many jobs of killed processes are listed.
      KILLED = 50

      # @return [String] what the timeline shows, one of {PERIODS}
      attr_reader :period

      # @param params [Hash{String => Object}] the request's
      # @param fleet [Fleet]
      def initialize(params, fleet = Fleet.new)
        @fleet = fleet
        @params = params
        @period = PERIODS.key?(params["period"]) ? params["period"] : "6h"
      end

      # @return [Array<Row>] every process that Sidekiq lists
      def rows = @rows ||= processes.map { |process| Row.new(process, jobs.fetch(process.identity, [])) }

      # @return [Array<Fleet::Lane>] those that have ended, the last one first
      def gone
        listed = processes.map { |process| Fleet::Format.readable(process.identity) }
        ended = (timeline&.lanes || []).reject { |lane| lane.ending == :running || listed.include?(lane.identity) }
        ended.sort_by { |lane| -lane.to }.first(GONE)
      end

      # @return [Array<KilledJob>] jobs that killed processes had in hand: those that wait, and the latest of the others
      def killed_jobs = @killed_jobs ||= @fleet.lost.first(KILLED)

      # @return [String] the timeline as SVG, or why there is none
      def picture = timeline ? Fleet::TimelineSvg.new(timeline, styled: false).to_s : ""

      # @return [String, nil] why there is no timeline
      def problem
        timeline
        @problem
      end

      # @return [Array(String, Integer), nil] what was asked of how many processes
      def told
        request, number = @params.values_at("request", "told")
        [request, number.to_i] if Fleet::Request::SIGNALS.key?(request) && number.to_s.match?(/\A\d{1,6}\z/)
      end

      private

      def processes = @processes ||= @fleet.processes

      # A process that takes no more jobs is waiting for those it has.
      def jobs
        @jobs ||= @fleet.jobs(processes.select { |process| process.quiet? && !process.gone? })
                        .group_by { |job| job.process.identity }
      end

      def timeline
        @timeline ||= (@fleet.timeline(since: PERIODS.fetch(period)) unless @problem)
      rescue Fleet::Error => e
        @problem = e.message
        nil
      end
    end

    # A process in the table.
    #
    # @api private
    class Row
      # How many jobs are named.
      NAMED = 5

      # @return [Fleet::Process]
      attr_reader :process

      # @param process [Fleet::Process]
      # @param jobs [Array] that it waits for
      def initialize(process, jobs)
        @process = process
        @jobs = jobs
      end

      # @return [String] by which it is told
      def identity = Fleet::Format.readable(process.identity)

      # @return [String] one word
      def state
        return "gone" if process.gone?
        return "booting" if process.state == :booting
        return process.ready? ? "ready" : "unready" unless process.quiet?
        return "stopping" if process.state == :stopping

        quiet_state
      end

      # @return [Array<String>] what else there is to say
      def remarks
        [("killed, or its machine is gone: no heartbeat for a minute" if process.ghost?),
         ("can never drain: #{process.never_drains}" if process.never_drains),
         ("embedded" if process.embedded?), process.company_in_words].compact
      end

      # @return [Array<String>] the jobs it waits for
      def jobs
        more = @jobs.size - NAMED
        names = @jobs.first(NAMED).map { |job| job.to_s.delete_suffix(" on #{process.name}") }
        more.positive? ? [*names, "and #{more} more"] : names
      end

      # @return [Array<String>] what may be asked of it
      def requests = Fleet::Request::SIGNALS.keys.reject { |request| Fleet::Request.refusal(request, process) }

      private

      def quiet_state
        return "drained" if process.drained?

        process.drained?.nil? && process.busy.zero? ? "quiet" : "draining"
      end
    end

    # What somebody wants to ask of which processes.
    #
    # @api private
    class Question
      # @return [String, nil] what to ask; nil: nothing that is known
      attr_reader :request

      # A row's own button names its process; the others are about those that are selected.
      #
      # @param params [Hash{String => Object}] the request's
      # @param fleet [Fleet]
      def initialize(params, fleet = Fleet.new)
        @fleet = fleet
        only = params["only"]
        request, identities = only.is_a?(Hash) ? only.first : params.values_at("request", "identities")
        @request = request if Fleet::Request::SIGNALS.key?(request)
        @identities = [*identities].grep(String)
      end

      # @return [Array<Fleet::Process>] the processes of which it is asked
      def processes = chosen.reject { |process| Fleet::Request.refusal(request, process) }

      # @return [Hash{String => String}] the names of those that are left out, and why
      def left_out
        reasons = chosen.to_h { |process| [process.name, Fleet::Request.refusal(request, process)] }
        gone = @identities - chosen.map { |process| Fleet::Format.readable(process.identity) }
        { **reasons.compact, **gone.to_h { |identity| [Text.one_line(identity), "it is gone"] } }
      end

      # @return [Integer] how many were told
      def send_all = @fleet.request(request, processes)

      private

      def chosen
        @chosen ||= @fleet.processes.select { |one| @identities.include?(Fleet::Format.readable(one.identity)) }
      end
    end
  end
end
