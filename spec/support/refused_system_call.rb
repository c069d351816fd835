# frozen_string_literal: true

require_relative "launched_container"

# A container in which a system call is refused that the relay or `run` uses. It is not for us to say which of them can
# be done without: either all works, or nothing is touched and the words are right.
class RefusedSystemCall
  ERRNOS = %w[EPERM EACCES ENOSYS].freeze

  # Made with `strace -ff` on Debian 13: what each calls itself, from its start through a boot, a TSTP and a stop. Those
  # are left out without which Sidekiq below a dash doesn't work either; each was tried, with each errno. (Without
  # getpid it works under a wrong name. Without poll no program in Rust starts: its runtime aborts.)
  BOTH = %w[access brk getpgid getrandom gettid kill pidfd_open pidfd_send_signal prctl prlimit64 rseq
            sched_getaffinity set_robust_list set_tid_address sigaltstack signalfd4 statx].freeze
  RELAY = [*BOTH, "chdir", "dup2", "ptrace", "setsid", "timer_create", "timer_settime"].freeze
  RUN = [*BOTH, "getpgrp", "ioctl", "setpgid", "socketpair"].freeze

  class << self
    def relay = RELAY.product(ERRNOS).map { |call, errno| new(:relay, call, errno) }
    def run = RUN.product(ERRNOS).map { |call, errno| new(:run, call, errno) }
  end

  attr_reader :subject, :call, :errno, :story

  # @return [String] what it came to: "works", "says so", or what is wrong
  attr_reader :result

  def initialize(subject, call, errno)
    @subject = subject
    @call = call
    @errno = errno
  end

  def to_s = "#{call} is refused with #{errno}"

  def run
    LaunchedContainer.prepared(form, install: install, denied: [call], errno: Errno.const_get(errno)::Errno) do |launch|
      launch.boot
      @result = subject == :run && ended_instead?(launch) ? judge_end(launch) : judge(launch)
      @story = launch.story
    end
    self
  end

  private

  def form
    return LaunchForm.line("sidekiq; echo x").with_timeout(3) if subject == :relay

    LaunchForm.with_run.find { |form| form.name == "#{LaunchForm::RUN} -- dash script: foreground" }.with_timeout(3)
  end

  # Without the relay it is `run` that saves the jobs.
  def install = subject == :relay ? "" : "lifecycle.signal_relay = :off"

  def ended_instead?(launch)
    launch.wait_until("ready, or its end") { launch.ready? || !launch.running? }
    !launch.ready?
  end

  # One sentence, with what the system says.
  def judge_end(launch)
    code = launch.exit_code
    is_clear = launch.log.match?(/\Asidekiq-lifecycle run: [^\n]*#{reason}[^\n]*\n\z/)
    [1, 126].include?(code) && is_clear ? "says so" : "ends with #{code}: #{launch.log}"
  end

  # The error, by its name or in the system's words.
  def reason = /#{errno}|#{Regexp.escape(SystemCallError.new(nil, Errno.const_get(errno)::Errno).message)}/

  def judge(launch)
    launch.occupy
    return judge_words(launch) if subject == :relay && launch.relays.empty?

    launch.stop(SignalOutcome::GENEROUS)
    launch.exit_code
    launch.nothing_lost? ? "works" : "loses the jobs"
  end

  def judge_words(launch)
    problems = launch.records.flat_map { |record| Sandbox.messages(record) }.join("\n")
    traced = launch.exec("cat", "/proc/1/status").last[/^TracerPid:\s*([1-9]\d*)/, 1]
    return "traced by #{traced}, but there is no relay" if traced

    # What the start of a process comes to is told by the system, without the name of the call.
    said = [launch.log, problems].all? do |words|
      words.match?(reason) && (words.match?(/\b#{call}\b/) || words.include?("the relay could not be started"))
    end
    said ? "says so" : "nothing is traced, and why is not said: #{problems}"
  end
end
