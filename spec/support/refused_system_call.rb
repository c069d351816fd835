# frozen_string_literal: true

require_relative "launched_container"

# A container in which one system call of the relay or of `run` is refused. The specs do not say which calls are needed:
# either everything works, or nothing is traced and the reported reason is right.
class RefusedSystemCall
  ERRNOS = %w[EPERM EACCES ENOSYS].freeze

  # Recorded with `strace -ff` on Debian 13: the calls of each, from its start through a boot, a TSTP and a stop. Calls
  # without which a Sidekiq below a dash does not work either are left out; each was tried with each errno. (Without
  # getpid it works under a wrong name. Without poll no Rust program starts, because its runtime aborts.)
  BOTH = %w[access brk getpgid getrandom gettid kill pidfd_open pidfd_send_signal prctl prlimit64 rseq
            sched_getaffinity set_robust_list set_tid_address sigaltstack signalfd4 statx].freeze
  RELAY = [*BOTH, "chdir", "dup2", "ptrace", "setsid", "timer_create", "timer_settime"].freeze
  RUN = [*BOTH, "getpgrp", "ioctl", "setpgid", "socketpair"].freeze

  class << self
    def relay = RELAY.product(ERRNOS).map { |call, errno| new(:relay, call, errno) }
    def run = RUN.product(ERRNOS).map { |call, errno| new(:run, call, errno) }
  end

  attr_reader :subject, :call, :errno, :story

  # @return [String] the result: "works", "says so" (it reports the reason), or what is wrong
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
    return LaunchForm.line("sidekiq; echo x") if subject == :relay

    LaunchForm.with_run.find { |form| form.name == "#{LaunchForm::RUN} -- dash script: foreground" }
  end

  # Without the relay it is `run` that saves the jobs.
  def install = subject == :relay ? "" : "lifecycle.signal_relay = :off"

  def ended_instead?(launch)
    launch.wait_until("ready, or its end") { launch.ready? || !launch.running? }
    !launch.ready?
  end

  # It must print one sentence, with the system's error.
  def judge_end(launch)
    code = launch.exit_code
    is_clear = launch.log.match?(/\Asidekiq-lifecycle run: [^\n]*#{reason}[^\n]*\n\z/)
    [1, 126].include?(code) && is_clear ? "says so" : "ends with #{code}: #{launch.log}"
  end

  # The error, by its name or its message.
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

    # The error of starting a process does not contain the name of the call.
    said = [launch.log, problems].all? do |words|
      words.match?(reason) && (words.match?(/\b#{call}\b/) || words.include?("the relay could not be started"))
    end
    said ? "says so" : "nothing is traced, and why is not said: #{problems}"
  end
end
