# frozen_string_literal: true

require_relative "forms"
require_relative "sandbox"

# Forms with other programs than shells and inits around Sidekiq, or beside it.
class Form
  # What Docker gives to root by itself, as far as su and sudo want it.
  ROOT = { user: 0, capabilities: %w[CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID AUDIT_WRITE] }.freeze

  # Programs in Ruby that start Sidekiq.
  AROUND = {
    "swallows TERM" => <<~RUBY,
      trap("TERM") { @told = true }
      system("#{TARGET}")
      code = $?.exitstatus
      600.times { @told or sleep 0.1 }
      exit(@told ? code : 9)
    RUBY
    "kills two seconds after TERM" => <<~RUBY,
      worker = spawn("#{TARGET}")
      trap("TERM") { Process.kill("TERM", worker) && Thread.new { sleep 2 and Process.kill("KILL", worker) } }
      Process.wait(worker)
      exit($?.exitstatus || 1)
    RUBY
    "ends at TERM" => <<~RUBY
      trap("TERM") { exit! 0 }
      system("#{TARGET}")
      exit($?.exitstatus || 1)
    RUBY
  }.freeze

  PUMA = <<~RUBY
    bind "unix:///tmp/puma"
    app { [200, {}, []] }
    spawn("#{TARGET}")
  RUBY

  class << self
    private

    def before_programs
      (switchers + around + beside + pipelines).map { |form| run("--", form) }
    end

    # Su and runuser kill what they have started two seconds after a TERM. The Debian of Sidekiq 8 has no sudo.
    def switchers
      [as_root("su app -s /bin/sh -c 'exec sidekiq'", ["su", "app", "-s", "/bin/sh", "-c", "exec #{TARGET}"]),
       as_root("su app -s /bin/sh -c 'sidekiq; echo x'", ["su", "app", "-s", "/bin/sh", "-c", "#{TARGET}; echo x"]),
       as_root("runuser -u app -- sidekiq", ["runuser", "-u", "app", "--", *DIRECT]),
       as_root("sudo -E -u app sidekiq", ["sudo", "-E", "-u", "app", *DIRECT])].first(Sandbox::MAJOR == 8 ? 3 : 4)
    end

    def around
      forms = AROUND.map { |name, text| form("ruby script: #{name}", %w[ruby script], script: text) }
      return forms unless Sandbox::MAJOR == 7

      # It kills five seconds after a TERM, and tells all as soon as one of them has ended.
      forms << form("foreman start", %w[foreman start -f script], script: "web: #{WEB}\nworker: #{TARGET}")
      forms << form("puma that starts Sidekiq", %w[puma --config script], script: PUMA, rescued: 143)
    end

    def beside
      [script("bash", "sidekiq & web"), script("dash", "sidekiq & exec web")]
    end

    # A reader of the pipe with the word in its arguments.
    def pipelines
      [inline("bash", "sidekiq 2>&1 | tee /tmp/sidekiq"), inline("dash", "sidekiq 2>&1 | logger -s --socket-errors=off -t sidekiq")]
    end

    def as_root(name, command) = form(name, command, container: ROOT)
  end
end
