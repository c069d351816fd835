# frozen_string_literal: true

require "sidekiq_lifecycle"
require_relative "../../cli"
require_relative "../../fleet"
require_relative "../timeline_svg"
require_relative "app_loader"
require_relative "lost_table"
require_relative "notifier"
require_relative "preview"
require_relative "progress_display"
require_relative "recovery"
require_relative "report"
require_relative "table"
require_relative "timeline_text"

module SidekiqLifecycle
  class Fleet
    # The command line `sidekiq-lifecycle fleet`.
    module CLI
      # Does what the command line asks for. The native command has parsed it.
      #
      # @api private
      class Command
        # The version of the JSON that `--json` prints. It increases when a field changes its meaning or is removed.
        SCHEMA = 3
        # How an operation ends, and the exit codes. A signal adds its number to 128, so SIGTERM makes it 143.
        OUTCOMES = { "reached" => 0, "not-reached" => 1, "timed-out" => 124, "interrupted" => 130 }.freeze

        # What `fleet lost` says if there is nothing to show.
        NO_KILLED_JOBS = "no process with recover_jobs is known to have been killed while it had a job in hand"

        # The answer cannot be written.
        class Unwritten < SidekiqLifecycle::Error; end

        # Reads the arguments, does what they ask for, and ends the process.
        #
        # @param arguments [Array<String>] of the whole command, with `fleet`
        def self.run(arguments)
          options = SidekiqLifecycle::CLI.parse(arguments)
          # Output of the application while it is loaded is not part of the answer.
          out = $stdout.dup
          $stdout.reopen($stderr)
          exit new(options, out).run
        end

        # @param options [Hash{String => Object}] as `src/cli/fleet.rs` describes them
        # @param out [IO] where the answer goes
        def initialize(options, out)
          @options = options
          @action = options.fetch("action")
          @out = out
          @report = Report.new(options) if options.key?("matching")
        end

        # @return [Integer] the exit code
        def run
          return show_status if @action == "status"
          return show_timeline if @action == "timeline"
          return show_lost if @action == "lost"
          return recover if @action == "recover"
          return preview if @options["dry_run"]

          operate
        rescue Errno::EPIPE
          1 # the reader of the answer has exited
        rescue AppLoader::Error, Fleet::Error, Unwritten => e
          print_error(e.message)
          1
        rescue Interrupt
          print_error("interrupted")
          OUTCOMES.fetch("interrupted")
        end

        private

        def fleet = @fleet ||= Fleet.new(AppLoader.load(@options["require"], @options["environment"]))

        # ---- status ----

        def show_status
          processes = fleet.processes(**selection)
          if @options["json"]
            write_json(processes: processes.map(&:to_h))
          elsif processes.empty?
            print_error(@report.selection.all? ? "no Sidekiq is registered in this Redis" : "no process matches")
          else
            write Table.new(processes, colour: colour?)
          end
          processes.empty? ? 1 : 0
        end

        # ---- timeline ----

        def show_timeline
          timeline = fleet.timeline(since: @options["since"])
          write_picture(timeline) if @options["svg"]
          if @options["json"]
            write_json(**timeline.to_h)
          elsif timeline.lanes.empty?
            print_error("no Sidekiq was seen in this time")
          else
            write TimelineText.new(timeline, colour: colour?)
          end
          timeline.lanes.empty? ? 1 : 0
        end

        def write_picture(timeline)
          File.write(@options["svg"], TimelineSvg.new(timeline).to_s)
        rescue SystemCallError => e
          raise Unwritten, "the picture cannot be written: #{e.message}"
        end

        # ---- lost, recover ----

        def show_lost
          jobs = fleet.lost
          write_killed_jobs(jobs, none: NO_KILLED_JOBS)
          jobs.any?(&:waiting?) ? 1 : 0
        end

        def write_killed_jobs(jobs, none:)
          return write_json(jobs: jobs.map(&:to_h)) if @options["json"]

          write(jobs.empty? ? none : LostTable.new(jobs, colour: colour?))
        end

        def recover
          config = AppLoader.load(@options["require"], @options["environment"])
          killed_jobs = KilledJobs.new(config, directory: @options["directory"])
          return preview_recovery(killed_jobs) if @options["dry_run"]

          recovery = Recovery.new(killed_jobs, @options).tap(&:call)
          announce(recovery) if recovery.any?
          @options["json"] ? write_json(**recovery.facts) : write(recovery.lines)
          recovery.complete? ? 0 : 1
        end

        def preview_recovery(killed_jobs)
          write_killed_jobs(killed_jobs.waiting, none: Recovery::NOTHING)
          0
        end

        def announce(recovery)
          notifier = Notifier.new(**webhooks) { |line| print_error(line) }
          notifier.post(recovery.text, { event: "recovered", **recovery.facts })
          notifier.finish
        end

        # ---- --dry-run ----

        # If no process can be signalled, it ends like the command itself.
        def preview
          preview = Preview.new(@action, @options, fleet.processes, @report.selection)
          if @options["json"]
            write_json(action: @action, processes: preview.to_a)
          else
            write preview.lines
          end
          0
        rescue NoMatch => e
          answer("not-reached", e.message)
          OUTCOMES.fetch("not-reached")
        end

        # ---- operations ----

        def operate
          @display = ProgressDisplay.new
          @notifier = Notifier.new(**webhooks) { |line| @display.print(line) }
          began = Time.now
          outcome, reason, exit_code = attempt
          @report.timeline = timeline_since(began) if @options["batch"] && @report.progress
          event = outcome == "reached" ? "reached" : "failed"
          @notifier.post(@report.ending(outcome, reason), { event:, **@report.brief_facts(outcome, reason) })
          finish
          answer(outcome, reason)
          exit_code || OUTCOMES.fetch(outcome)
        ensure
          @display&.close
        end

        def webhooks = { slack: @options["slack_webhook"], plain: @options["webhook"] }

        # Ctrl-C while webhooks are being called does not suppress the answer.
        def finish
          @notifier.finish
        rescue Interrupt
          @display.print("interrupted: the webhooks may not have been called")
        ensure
          @display.close
        end

        # A rolling restart was worth it if a worker was ready all the time.
        def timeline_since(began)
          fleet.timeline(since: began)
        rescue Fleet::Error
          nil # Redis has none, or does not answer
        end

        # @return [Array(String, String, Integer)] how it ended, why, and the exit code if a signal ended it
        def attempt
          loaded = fleet
          previous = Signal.trap("TERM") { Thread.main.raise(SignalException, "SIGTERM") }
          @report.progress = call(loaded) { |progress| show(progress) }
          ["reached", nil]
        rescue AppLoader::Error => e
          ["not-reached", e.message]
        rescue Fleet::Error => e
          @report.progress = e.progress || @report.progress
          [e.is_a?(TimedOut) ? "timed-out" : "not-reached", e.message]
        rescue SignalException => e # Interrupt is one as well
          name = e.is_a?(Interrupt) ? "" : " by #{e.message}"
          ["interrupted", "interrupted#{name}: #{@report.standing}", 128 + e.signo]
        ensure
          Signal.trap("TERM", previous || "DEFAULT")
        end

        def call(fleet, &listener)
          limits = { **selection, timeout: @options["timeout"] }
          case @action
          when "quiet"
            fleet.quiet(**limits, wait: @options["wait"], then_stop: @options["then_stop"], &listener)
          when "wait" then fleet.wait(@options["goal"].to_sym, **limits, &listener)
          when "stop" then fleet.stop(**limits, drain_first: @options["drain_first"], batch:, &listener)
          when "wake" then fleet.wake(**limits, even_busy: @options["even_busy"], &listener)
          end
        end

        # Without a pattern, the command is about all processes.
        def selection
          matching = @options["matching"]
          { match: (matching unless matching.empty?), except: @options["except"] }
        end

        def batch
          kind, number = @options["batch"]&.first
          kind == "percent" ? number / 100.0 : number
        end

        def show(progress)
          is_first = @report.progress.nil?
          @report.progress = progress
          @notifier.post(@report.beginning, { event: "started", **@report.brief_facts(nil, nil) }) if is_first
          @display.show(progress)
        end

        # ---- output ----

        def answer(outcome, reason)
          @options["json"] ? write_json(**@report.facts(outcome, reason)) : write(@report.lines(outcome, reason))
        end

        def write_json(**fields) = write(JSON.pretty_generate(schema: SCHEMA, **fields))

        # Flushes at once, because errors at the end of the process are not reported.
        def write(answer)
          @out.puts(answer)
          @out.flush
        rescue Errno::EPIPE
          raise
        rescue SystemCallError => e
          raise Unwritten, "the answer cannot be written: #{e.message}"
        end

        def colour? = @out.tty? && ENV.fetch("NO_COLOR", "").empty? && ENV["TERM"] != "dumb"

        def print_error(sentence) = warn("sidekiq-lifecycle: #{Text.one_line(sentence)}")
      end
    end
  end
end
