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

      # @param options [Hash{String => Object}] as `src/faces/fleet.rs` writes them
      # @param out [IO] where the answer goes
      def initialize(options, out)
        @options = options
        @action = options.fetch("action")
        @out = out
      end

      # @return [Integer] the exit code
      def run
        fleet = Fleet.new(Application.load(@options["require"], @options["environment"]))
        return status(fleet) if @action == "status"
        return preview(fleet) if @options["dry_run"]

        operate(fleet)
      rescue Errno::EPIPE
        1 # nobody reads the answer any more
      rescue Application::Error, *Fleet.redis_errors => e
        complain(e.is_a?(Application::Error) ? e.message : "Redis does not answer: #{e.message}")
        1
      rescue Interrupt
        complain("interrupted")
        OUTCOMES.fetch("interrupted")
      end

      private

      # ---- status ----

      def status(fleet)
        members = fleet.members(**selection)
        if @options["json"]
          @out.puts JSON.pretty_generate(schema: SCHEMA, processes: members.map(&:to_h))
        elsif members.empty?
          complain(@options["matching"].empty? ? "no Sidekiq is registered in this Redis" : "no process matches")
        else
          @out.puts Table.new(members, colour: colour?)
        end
        members.empty? ? 1 : 0
      end

      # ---- what would be done ----

      def preview(fleet)
        members = fleet.members(**selection)
        members.select!(&:quiet?) if @action == "wake"
        if members.empty?
          complain("nobody to tell")
          return 1
        end
        @options["json"] ? preview_json(members) : preview_text(members)
        0
      end

      def preview_json(members)
        processes = members.map { |member| { **member.to_h, would: would(member) } }
        @out.puts JSON.pretty_generate(schema: SCHEMA, action: @action, processes:)
      end

      def preview_text(members)
        width = members.map { |member| member.name.size }.max
        members.each { |member| @out.puts "#{member.name.ljust(width)}  #{would(member)}" }
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

      def operate(fleet)
        @screen = Screen.new
        webhooks = { slack: @options["slack_webhook"], plain: @options["webhook"] }
        @notifier = Notifier.new(**webhooks) { |line| @screen.say(line) }
        outcome, reason = attempt(fleet)
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
      def attempt(fleet)
        previous = Signal.trap("TERM") { Thread.main.raise(SignalException, "SIGTERM") }
        @progress = call(fleet) { |progress| seen(progress) }
        ["reached", nil]
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

      def selection = { match: @options["matching"], except: @options["except"] }

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
        return @out.puts(JSON.pretty_generate(schema: SCHEMA, **facts(outcome, reason))) if @options["json"]
        return @out.puts("#{@progress}#{took}") if outcome == "reached"

        @out.puts("not reached: #{reason}", *aftermath)
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

      def meant
        chosen = Selection.new(matching: @options["matching"], except: @options["except"])
        chosen.all? ? "" : " (#{chosen})"
      end

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

      def complain(sentence) = warn("sidekiq-lifecycle: #{sentence}")
    end
  end
end
