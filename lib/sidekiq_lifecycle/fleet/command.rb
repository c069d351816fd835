# frozen_string_literal: true

require "etc"
require "json"
require "socket"
require "sidekiq_lifecycle"
require_relative "../native_command"
require_relative "application"
require_relative "notifier"
require_relative "screen"
require_relative "table"

module SidekiqLifecycle
  class Fleet
    # The command `sidekiq-lifecycle fleet`: carries out what the native command has read and checked.
    #
    # @api private
    class Command
      # The version of what `--json` prints; it grows when a field changes its meaning or goes.
      SCHEMA = 1
      # How an operation ends, and the exit codes that say so.
      OUTCOMES = { "reached" => 0, "not-reached" => 1, "timed-out" => 124, "interrupted" => 130,
                   "terminated" => 143 }.freeze
      # What is asked for, in words.
      ASKED = { "quiet" => "be quiet", "stop" => "stop", "wake" => "wake up" }.freeze

      # The answer cannot be written.
      class Unwritten < SidekiqLifecycle::Error; end

      # Reads the arguments, does what they ask, and ends the process.
      #
      # @param arguments [Array<String>] of the whole command, with `fleet`
      def self.main(arguments)
        options = NativeCommand.read(arguments)
        # What the application prints while it is loaded is no answer.
        out = $stdout.dup
        $stdout.reopen($stderr)
        exit new(options, out).run
      end

      # @param options [Hash{String => Object}] as `src/cli/fleet.rs` writes them
      # @param out [IO] where the answer goes
      def initialize(options, out)
        @options = options
        @action = options.fetch("action")
        @out = out
      end

      # @return [Integer] the exit code
      def run
        return status if @action == "status"
        return preview if @options["dry_run"]

        operate
      rescue Errno::EPIPE
        1 # nobody reads the answer any more
      rescue Application::Error, Fleet::Error, Unwritten => e
        complain(e.message)
        1
      rescue Interrupt
        complain("interrupted")
        OUTCOMES.fetch("interrupted")
      end

      private

      def fleet = Fleet.new(Application.load(@options["require"], @options["environment"]))

      # ---- status ----

      def status
        members = fleet.members(**selection)
        if @options["json"]
          write JSON.pretty_generate(schema: SCHEMA, processes: members.map(&:to_h))
        elsif members.empty?
          complain(@options["matching"].empty? ? "no Sidekiq is registered in this Redis" : "no process matches")
        else
          write Table.new(members, colour: colour?)
        end
        members.empty? ? 1 : 0
      end

      # ---- what would be done ----

      # Where the command itself would find nobody to tell, it ends in the same way.
      def preview
        targets = Targets.new(fleet.members.to_h { |member| [member.identity, member] }, selected)
        waking = @action == "wake"
        waking ? targets.quiet : targets.steerable
        members = waking ? targets.matching.select(&:quiet?) : targets.matching
        @options["json"] ? preview_json(members) : preview_text(members)
        0
      rescue NoMatch => e
        answer("not-reached", e.message)
        OUTCOMES.fetch("not-reached")
      end

      def preview_json(members)
        processes = members.map { |member| { **member.to_h, would: would(member) } }
        write JSON.pretty_generate(schema: SCHEMA, action: @action, processes:)
      end

      def preview_text(members)
        width = members.map { |member| member.name.size }.max
        write(members.map { |member| "#{member.name.ljust(width)}  #{would(member)}" })
      end

      def would(member)
        return "is a ghost, and would be left out" if member.ghost?
        return "is embedded, and would be left out" if member.embedded?

        now = "#{member.state}, #{Words.count(member.busy, "job")}"
        return "would be left alone while it is busy (#{now})" if left_alone?(member)

        "would be told to #{@action == "quiet" ? "be quiet" : "stop"} (#{now})"
      end

      def left_alone?(member) = @action == "wake" && member.busy.positive? && !@options["even_busy"]

      # ---- what is done ----

      def operate
        @screen = Screen.new
        webhooks = { slack: @options["slack_webhook"], plain: @options["webhook"] }
        @notifier = Notifier.new(**webhooks) { |line| @screen.say(line) }
        outcome, reason = attempt
        event = outcome == "reached" ? "reached" : "failed"
        @notifier.tell(ending(outcome, reason), { event:, **brief_facts(outcome, reason) })
        finish
        answer(outcome, reason)
        OUTCOMES.fetch(outcome)
      end

      # Who will not wait for the webhooks has his answer all the same.
      def finish
        @notifier.finish
      rescue Interrupt
        @screen.say("interrupted: the webhooks may not know how this ended")
      ensure
        @screen.close
      end

      # [how it ended, why]
      def attempt
        loaded = fleet
        previous = Signal.trap("TERM") { Thread.main.raise(SignalException, "SIGTERM") }
        @progress = call(loaded) { |progress| seen(progress) }
        ["reached", nil]
      rescue Application::Error => e
        ["not-reached", e.message]
      rescue Fleet::Error => e
        @progress = e.progress || @progress
        [e.is_a?(TimedOut) ? "timed-out" : "not-reached", e.message]
      rescue Interrupt
        ["interrupted", "interrupted: #{@progress || "nobody was told anything"}"]
      rescue SignalException => e
        ["terminated", "ended by #{e.message}: #{@progress || "nobody was told anything"}"]
      ensure
        Signal.trap("TERM", previous || "DEFAULT")
      end

      def call(fleet, &seen)
        limits = { **selection, timeout: @options["timeout"] }
        case @action
        when "quiet" then fleet.quiet(**limits, wait: @options["wait"], &seen)
        when "wait" then fleet.wait(@options["goal"].to_sym, **limits, &seen)
        when "stop" then fleet.stop(**limits, drain_first: @options["drain_first"], batch:, &seen)
        when "wake" then fleet.wake(**limits, even_busy: @options["even_busy"], &seen)
        end
      end

      # Whoever names nobody means all.
      def selection
        matching = @options["matching"]
        { match: (matching unless matching.empty?), except: @options["except"] }
      end

      def selected = Selection.new(matching: selection[:match], except: selection[:except])

      def batch
        kind, number = @options["batch"]&.first
        kind == "percent" ? number / 100.0 : number
      end

      def seen(progress)
        is_first = @progress.nil?
        @progress = progress
        @notifier.tell(beginning, { event: "started", **brief_facts(nil, nil) }) if is_first
        @screen.show(progress)
      end

      # ---- in words ----

      def answer(outcome, reason)
        return write(JSON.pretty_generate(schema: SCHEMA, **facts(outcome, reason))) if @options["json"]
        return write(Words.lines("#{@progress}#{took}")) if outcome == "reached"

        write(["not reached: #{reason}", *aftermath].map { |line| Words.lines(line) })
      end

      # At once: what fails when the process ends is heard by nobody.
      def write(answer)
        @out.puts(answer)
        @out.flush
      rescue Errno::EPIPE
        raise
      rescue SystemCallError => e
        raise Unwritten, "the answer cannot be written: #{e.message}"
      end

      def facts(outcome, reason)
        { action: @action, goal: @options["goal"], by:, match: @options["matching"], except: @options["except"],
          outcome:, reason:, progress: @progress&.to_h }
      end

      # Without every process that is waited for: of thousands that is megabytes, more than webhooks take.
      def brief_facts(outcome, reason)
        { **facts(outcome, reason), progress: @progress&.to_h&.except(:pending) }
      end

      def beginning
        whom = Words.count(@progress.total, "Sidekiq process", "Sidekiq processes")
        what = @action == "wait" ? "waits for #{whom}: #{@options["goal"]}" : "asks #{whom} to #{ASKED.fetch(@action)}"
        limit = ", for #{Words.span(@options["timeout"])} at most" if @options["timeout"]
        "#{by} #{what}#{meant}#{limit}"
      end

      def ending(outcome, reason)
        return "#{@progress}#{took}#{meant} (asked by #{by})" if outcome == "reached"

        ["#{@action} failed#{took}#{meant} (asked by #{by}): #{reason}", *aftermath].join("\n")
      end

      def took = @progress ? " after #{Words.span(@progress.elapsed)}" : ""

      def meant = selected.all? ? "" : " (#{selected})"

      # What stays done.
      def aftermath
        told = @progress&.told || {}
        told.map { |words, number| "#{Words.count(number, "process", "processes")} #{words}; that stands." }
      end

      def by = @by ||= @options["by"] || "#{ENV.fetch("SUDO_USER", nil) || user}@#{Socket.gethostname}"

      # In a container the user may have no name.
      def user
        Etc.getpwuid.name
      rescue ArgumentError
        "uid #{Process.uid}"
      end

      def colour? = @out.tty? && ENV.fetch("NO_COLOR", "").empty? && ENV["TERM"] != "dumb"

      def complain(sentence) = warn("sidekiq-lifecycle: #{Text.one_line(sentence)}")
    end
  end
end
