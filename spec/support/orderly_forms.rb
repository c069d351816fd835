# frozen_string_literal: true

require_relative "launch_forms"

# Launch forms in which the script, the supervisor or the init itself stops Sidekiq properly. They need no relay, and
# one must not change what they do.
class LaunchForm
  # Each waits a moment before it signals the worker, so that an extra signal in the meantime would be seen.
  TRAPS = {
    "sleeps, quiets, waits for the drain, stops" =>
      trap_and_wait("sleep 1; sidekiq-lifecycle quiet --wait --timeout 60s; kill -TERM $P"),
    "sleeps, quiets, sleeps, stops" => trap_and_wait("sleep 1; kill -TSTP $P; sleep 6; kill -TERM $P"),
    "sleeps, stops the child of a subshell" => trap_and_wait("sleep 1; pkill -TERM -P $P", "(#{TARGET}; true)"),
    "sleeps, stops the child of another shell" =>
      trap_and_wait("sleep 1; pkill -TERM -P $P", "sh -c '#{TARGET}; true'"),
    "sleeps, stops the first of a pipeline" =>
      trap_and_wait('sleep 1; pkill -TERM -f "^sidekiq [0-9]"', "#{TARGET} | cat"),
    "sleeps, stops a group of its own" => <<~SH
      set -m
      trap 'sleep 1; kill -TERM $P' TERM
      #{TARGET} &
      P=$!
      wait $P
      wait $P
    SH
  }.freeze
  DRAINS = TRAPS.keys.first(2).freeze

  SUPERVISORS = {
    "ruby" => <<~RUBY,
      stop = false
      trap("TERM") { stop = true }
      worker = spawn("#{TARGET}")
      sleep 0.1 until stop
      [["TSTP", 6], ["TERM", 0]].each do |signal, pause|
        sleep 1
        Process.kill(signal, worker)
        sleep pause
      end
      Process.wait(worker)
      exit($?.exitstatus || 1)
    RUBY
    "python3" => <<~PYTHON
      import signal, subprocess, sys, time
      def stop(*_):
          time.sleep(1)
          worker.send_signal(signal.SIGTERM)
      signal.signal(signal.SIGTERM, stop)
      worker = subprocess.Popen("#{TARGET}".split())
      sys.exit(worker.wait())
    PYTHON
  }.freeze

  EXECS = {
    "as for s6 or runit" => "exec 2>&1\ncd /app\nexec #{TARGET}",
    "exec env" => "exec env STAGE=production #{TARGET}",
    "exec nice" => "cd /app && exec nice -n 1 #{TARGET}"
  }.freeze

  class << self
    # @return [Array<LaunchForm>] all of them
    def orderly = @orderly ||= traps + supervisors + execs

    private

    def traps
      # A zsh without a terminal does not accept `set -m`.
      each = SHELLS.keys.product(TRAPS.keys) - [["zsh", "sleeps, stops a group of its own"]]
      before = ["tini --", "#{RUN} --"].product(%w[dash bash], TRAPS.keys)
      each.map { |shell, name| trapping(shell, name) } +
        before.map { |first, shell, name| behind(first, trapping(shell, name)) }
    end

    # `run` itself signals the only worker of a supervisor, and does so at once.
    def supervisors
      SUPERVISORS.flat_map do |language, text|
        drains = language == "ruby"
        [nil, "tini --", ("#{RUN} --" unless drains)].uniq.map do |first|
          behind(first, orderly_form("#{language} supervisor", [language, "script"], text, drains:))
        end
      end
    end

    def execs = EXECS.map { |name, text| orderly_form("dash script: #{name}", %w[dash script], text) }

    # Zsh may reap the worker while its trap runs, and then no longer knows its status.
    def trapping(shell, name)
      orderly_form("#{shell} script: trap that #{name}", [*SHELLS.fetch(shell), "script"], TRAPS.fetch(name),
                   drains: DRAINS.include?(name), untouched: (0 unless shell == "zsh"))
    end

    # A form that drains has a job that takes longer than `-t` and ends before Sidekiq is stopped.
    def orderly_form(name, command, text, drains: false, untouched: 0)
      form = form(name, command, script: text, drains:, untouched:)
      form.timeout = 6 if drains
      form
    end

    def behind(first, form)
      return form unless first

      form.name = "#{first} #{form.name}"
      form.command = [*first.split, *form.command]
      form
    end
  end
end
