# frozen_string_literal: true

require_relative "launch_forms"

# Forms with other programs than shells and inits around Sidekiq, or beside it.
class LaunchForm
  # Docker's default capabilities of root, as far as su and sudo need them.
  ROOT = { user: 0, capabilities: %w[CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID AUDIT_WRITE] }.freeze

  # `%d` is the number of seconds after which it kills. They are far from Sidekiq's own `-t 5`.
  KILLER = <<~RUBY.freeze
    worker = spawn("#{TARGET}")
    trap("TERM") { Process.kill("TERM", worker) && Thread.new { sleep %d and Process.kill("KILL", worker) } }
    Process.wait(worker)
    exit($?.exitstatus || 1)
  RUBY

  # Programs in Ruby that start Sidekiq.
  AROUND = {
    "swallows TERM" => <<~RUBY,
      trap("TERM") { @told = true }
      system("#{TARGET}")
      code = $?.exitstatus
      600.times { @told or sleep 0.1 }
      exit(@told ? code : 9)
    RUBY
    "kills two seconds after TERM" => format(KILLER, 2),
    "kills a minute after TERM" => format(KILLER, 60),
    "passes TERM on" => <<~RUBY,
      worker = spawn("#{TARGET}")
      trap("TERM") { Process.kill("TERM", worker) }
      Process.wait(worker)
      exit($?.exitstatus || 1)
    RUBY
    "ends at TERM" => <<~RUBY
      trap("TERM") { exit! 3 }
      system("#{TARGET}")
      exit($?.exitstatus || 1)
    RUBY
  }.freeze

  # A program with several threads and no handler for TERM, like one that fetches secrets.
  THREADS = <<~PYTHON.freeze
    import signal, subprocess, sys, threading, time
    # Python's own handler would have it kill Sidekiq.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for _ in range(4):
        threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    sys.exit(subprocess.call("#{TARGET}".split()))
  PYTHON

  PUMA = <<~RUBY.freeze
    bind "unix:///tmp/puma"
    app { [200, {}, []] }
    spawn("#{TARGET}")
  RUBY

  # Creates a service directory for runit or s6; `%s` is the program that keeps the service running.
  SERVICE = "mkdir -p services/worker && printf '#!/bin/sh\\ncd /app && exec #{TARGET}\\n' >services/worker/run && " \
            "chmod +x services/worker/run && cd services && %s".freeze

  SUPERVISORD = <<~INI.freeze
    [supervisord]
    nodaemon=true
    logfile=/dev/null
    logfile_maxbytes=0
    pidfile=/tmp/supervisord.pid
    [program:worker]
    command=sh -c "cd /app && exec #{TARGET}"
    stdout_logfile=/dev/stdout
    stdout_logfile_maxbytes=0
    redirect_stderr=true
    stopwaitsecs=%d
  INI

  class << self
    # @return [Array<LaunchForm>] with programs that people put around a Sidekiq; some are only in Sidekiq 7's Debian
    def wrapped
      forms = [switchers, between, around, with_threads, beside, killers, keepers, people]
      @wrapped ||= group("Wrapped", forms.flatten)
    end

    private

    # A program that leaves no process in between; and a shell on both sides of su, of which the relay may not trace
    # root's.
    def between
      [as_root("setpriv --reuid app --regid 1000 --init-groups sidekiq",
               ["setpriv", "--reuid", "app", "--regid", "1000", "--init-groups", *DIRECT]),
       as_root("dash -c 'su app -s /bin/sh -c \"sidekiq; true\"; true'",
               ["dash", "-c", "su app -s /bin/sh -c '#{TARGET}; true'; true"])]
    end

    # Coreutils' timeout, which kills too early by itself.
    def killers
      timeout = ["timeout", "-k", "3", "1h", *DIRECT]
      [form("timeout -k 3 1h sidekiq", timeout), form("tini -- timeout -k 3 1h sidekiq", ["tini", "--", *timeout]),
       form("tini -- timeout -k 1m 1h sidekiq", ["tini", "--", "timeout", "-k", "1m", "1h", *DIRECT])]
    end

    # Programs that keep services running.
    def keepers
      [kept("runsvdir", "exec runsvdir -P ."), kept("tini -- runsvdir", "exec tini -- runsvdir -P ."),
       kept("s6-svscan", "exec s6-svscan ."),
       kept("s6-svscan, timeout-kill 2000", "echo 2000 >worker/timeout-kill && exec s6-svscan ."),
       supervisord(3), supervisord(60)]
    end

    def kept(name, command) = form(name, ["dash", "-c", format(SERVICE, command)], majors: [7])

    def supervisord(seconds)
      form("supervisord, stopwaitsecs=#{seconds}", %w[supervisord -c script], majors: [7],
                                                                              script: format(SUPERVISORD, seconds))
    end

    # Interactive shells without a user, and a shell that starts Sidekiq in its own session.
    def people
      [form("bash -ic 'sidekiq; true'", ["bash", "-ic", "#{TARGET}; true"]),
       form("tini -- bash -ic 'sidekiq; true'", ["tini", "--", "bash", "-ic", "#{TARGET}; true"]),
       form("tini -- bash -lic 'sidekiq; true'", ["tini", "--", "bash", "-lic", "#{TARGET}; true"]),
       form("tini -g -- bash -c 'trap … TERM; setsid -w sidekiq; true'",
            ["tini", "-g", "--", "bash", "-c", "trap 'echo told' TERM; setsid -w #{TARGET}; true"])]
    end

    # The first ones decide themselves what a TSTP does.
    def with_programs
      [*ending, *with_threads, script("bash", "sidekiq & web"),
       under("tini --", form("timeout -k 3 100 sidekiq", ["timeout", "-k", "3", "100", *DIRECT]), untouched: 137)]
    end

    def ending
      codes = { untouched: 3, rescued: 3, tstp_rescued: "lost" }
      forms = [script("dash", "sidekiq & exec web", **codes),
               form("ruby script: ends at TERM", %w[ruby script], script: AROUND.fetch("ends at TERM"), **codes)]
      forms << form("puma that starts Sidekiq", %w[puma --config script], script: PUMA, majors: [7], **codes,
                                                                          untouched: 1, rescued: 1)
    end

    def with_threads = [nil, "tini --"].map { |first| threads.then { |form| first ? under(first, form) : form } }
    def threads = form("python3 script: several threads", %w[python3 script], script: THREADS)

    # These are in no other table, because below tini a TSTP suspends them.
    def ending_below_tini = ending.map { |form| under("tini --", form, untouched: form.untouched) }

    def before_programs
      (switchers + around + beside + pipelines).map { |form| run("--", form) }
    end

    # Su and runuser kill what they have started two seconds after a TERM. The Debian of Sidekiq 8 has no sudo.
    def switchers
      [as_root("su app -s /bin/sh -c 'exec sidekiq'", ["su", "app", "-s", "/bin/sh", "-c", "exec #{TARGET}"]),
       as_root("su app -s /bin/sh -c 'sidekiq; echo x'", ["su", "app", "-s", "/bin/sh", "-c", "#{TARGET}; echo x"]),
       as_root("runuser -u app -- sidekiq", ["runuser", "-u", "app", "--", *DIRECT]),
       as_root("sudo -E -u app sidekiq", ["sudo", "-E", "-u", "app", *DIRECT], majors: [6, 7])]
    end

    def around
      # The Sidekiq has ended when the program gets the signal.
      forms = AROUND.map { |name, text| form("ruby script: #{name}", %w[ruby script], script: text) }
      forms.push(foreman(3), foreman(60))
      forms << form("puma that starts Sidekiq", %w[puma --config script], majors: [7], script: PUMA, rescued: 143)
    end

    # It kills after that time (5 s unless set), and signals all as soon as one of them has ended.
    def foreman(seconds)
      form("foreman start -t #{seconds}", ["foreman", "start", "-f", "script", "-t", seconds.to_s],
           majors: [7], script: "web: #{WEB}\nworker: #{TARGET}")
    end

    def beside
      [script("bash", "sidekiq & web"), script("dash", "sidekiq & exec web", rescued: 3)]
    end

    # A reader of the pipe with the word sidekiq in its arguments.
    def pipelines
      [inline("bash", "sidekiq 2>&1 | tee /tmp/sidekiq"),
       inline("dash", "sidekiq 2>&1 | logger -s --socket-errors=off -t sidekiq")]
    end

    def as_root(name, command, **options) = form(name, command, container: ROOT, **options)
  end
end
