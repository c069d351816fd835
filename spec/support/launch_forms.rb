# frozen_string_literal: true

# A way in which a container's command may launch Sidekiq, and what signals to the container do then.
#
# `untouched` is the container's exit code after `docker stop` without the relay. It is 0 only if the shutdown
# completes; otherwise the jobs are lost. `rescued` is the exit code with the relay, with which no job is ever lost; if
# it is not 0 it is the shell's own. `terms` is how many SIGTERMs a Sidekiq may get with the relay. `tstp` is what a
# TSTP does without the relay, `tstp_rescued` what it does with it. `container` has arguments for
# {Container#initialize}. `majors` are the majors of Sidekiq whose Debian system has the form's programs.
LaunchForm = Struct.new(:group, :name, :command, :script, :init, :sidekiqs, :untouched, :rescued, :terms, :tstp,
                        :tstp_rescued, :before, :timeout, :drains, :container, :majors, keyword_init: true) do
  def to_s = name

  # @return [LaunchForm] the same with another `-t`
  def with_timeout(seconds)
    words = command.map { |word| word.sub(/-t 5\b/, "-t #{seconds}") }
    words[-1] = seconds.to_s if words.last(2) == %w[-t 5]
    self.class.new(**to_h, command: words, timeout: seconds)
  end

  # @return [String] the contents of the file `script`
  def script_text = LaunchForm::SCRIPTS.fetch(script, script).gsub(/-t 5\b/, "-t #{timeout}")

  # @return [Boolean] whether the shutdown completes without the relay
  def safe? = untouched.zero?

  # @return [Boolean] whether it is one of the fixed set of 27
  def in_matrix? = LaunchForm.matrix.include?(self)

  # @return [Boolean] whether no form before it in its group is launched by the same kind of command
  def first_of_its_kind? = LaunchForm.kinds.include?(self)

  # @return [Boolean] whether there is a shell or an init that the relay traces. (It continues what dumb-init suspends.)
  def traced? = !safe? || name.match?(/ trap |\Adumb-init sidekiq/)

  # @return [Boolean] whether a SIGTERM ends the container at once without the relay, its worker with it
  def ends_early? = untouched == 143 || script == "trap that exits"
end

# The table of all forms.
class LaunchForm
  TARGET = "sidekiq -r ./app.rb -c 2 -t 5"
  DIRECT = TARGET.split.freeze

  # Takes the place of a web server, and notes its signals.
  WEB = %q(ruby -e 'trap("TERM") { File.write("notes", "web hears TERM\n", mode: "a"); exit! 3 }; sleep')

  # A script with a trap. The first `wait` ends when the trap has run, the second with the worker.
  def self.trap_and_wait(trap, worker = TARGET)
    "trap '#{trap}' TERM\n#{worker} &\nP=$!\nwait $P\nwait $P\n"
  end

  # The scripts.
  SCRIPTS = {
    "foreground" => TARGET,
    "trap and wait" => trap_and_wait("kill $P"),
    "trap and foreground" => <<~SH,
      trap 'kill $P' TERM
      #{TARGET}
    SH
    "trap that sends TSTP, waits, sends TERM" => trap_and_wait("kill -TSTP $P; sleep 1; kill -TERM $P"),
    "trap on EXIT" => <<~SH,
      trap 'echo bye' EXIT
      #{TARGET}
    SH
    "background and wait -n" => <<~SH,
      #{TARGET} &
      wait -n
    SH
    "exec" => "exec #{TARGET}",
    "two in the background and wait" => <<~SH,
      #{TARGET} &
      #{TARGET} &
      wait
    SH
    "trap that exits" => <<~SH,
      trap 'exit 0' TERM
      #{TARGET} &
      wait
    SH
    "SIGCHLD ignored" => <<~SH,
      trap '' CHLD
      #{TARGET}
      echo end
    SH
    "sidekiq & web" => <<~SH,
      #{TARGET} &
      #{WEB}
      wait
    SH
    "sidekiq & exec web" => <<~SH
      #{TARGET} &
      exec #{WEB}
    SH
  }.freeze

  SHELLS = { "dash" => %w[dash], "bash" => %w[bash], "busybox sh" => %w[busybox sh], "zsh" => %w[zsh],
             "ksh" => %w[ksh93] }.freeze

  # What a TSTP does below each init, and what it does with a shell in between.
  INITS = { "tini --" => %w[quiet frozen], "tini -g --" => ["quiet", "quiet, frozen"], "dumb-init" => %w[frozen frozen],
            "dumb-init -c" => %w[quiet lost], "catatonit --" => %w[lost lost],
            "docker run --init" => %w[quiet frozen] }.freeze
  RUN = "sidekiq-lifecycle run"
  TELL_EVERYBODY = ["tini -g --", "dumb-init"].freeze

  class << self
    # @return [Array<LaunchForm>] all of them
    def all
      @all ||= matrix + group("Other forms", further) + group("Other programs", with_programs) +
               group("No shell in between", direct)
    end

    # @return [Array<LaunchForm>] those with `run` in place of an init, or before a shell. Here it is `run` that
    #   saves the jobs: `rescued`, `terms` and `tstp_rescued` describe what happens without the relay.
    def with_run
      @with_run ||= group("`run` without the relay", in_place_of_inits + before_shells + before_programs)
    end

    # @return [Array<LaunchForm>] those in which a process is traced, in a table or not
    def traced
      others = [*ending_early, *ending_below_tini, *programs, *deaf]
      @traced ||= all.select(&:traced?) + group("In no other table", others)
    end

    # @return [Array<LaunchForm>] of the fixed set and of those with `run` the first with each program at the top, or
    #   below `run`
    def kinds
      @kinds ||= (matrix + with_run).uniq do |form|
        command = form.command.map { |word| File.basename(word) } - %w[sidekiq-lifecycle run -- -g]
        [form.group, command.first]
      end
    end

    # @return [LaunchForm] one that is in no table: `dash -c` with a line in which `sidekiq` is replaced by the target
    def line(text) = inline("dash", text)

    # @return [Array<LaunchForm>] the fixed set of 27
    def matrix = @matrix ||= group("A shell", shells) + group("An init with a shell below it", inits)

    private

    # Scripts that write the tables have no sandbox, and use all forms.
    def group(name, forms)
      forms = forms.select { |form| form.majors.include?(Sandbox::MAJOR) } if defined?(Sandbox)
      forms.each { |form| form.group = name }
    end

    def shells
      ["dash", "bash", "busybox sh"].flat_map do |shell|
        [lone(shell), inline(shell, "sidekiq; echo x"), inline(shell, "sidekiq | cat"), script(shell, "foreground"),
         script(shell, "trap and wait", untouched: 0), script(shell, "trap and foreground")]
      end
    end

    def inits
      [under("tini --", script("dash", "foreground")),
       under("tini --", inline("bash", "sidekiq; echo x")),
       under("tini --", inline("bash", "sidekiq | cat")),
       under("tini -g --", script("dash", "foreground")),
       under("dumb-init", script("dash", "foreground")),
       under("dumb-init -c", inline("bash", "sidekiq; echo x")),
       under("docker run --init", inline("bash", "sidekiq | cat")),
       under("catatonit --", script("dash", "foreground")),
       form("dash -c 'tini -s -- dash script; echo x' script: foreground",
            ["dash", "-c", "tini -s -- dash script; echo x"], script: "foreground")]
    end

    def further
      [inline("dash", "cd /app && sidekiq"), inline("dash", "sidekiq || true"),
       lone("bash", "cd /app && sidekiq"), inline("bash", "sidekiq || true"),
       script("bash", "trap that sends TSTP, waits, sends TERM", untouched: 0),
       script("bash", "trap on EXIT", untouched: 143, rescued: 143), script("dash", "trap on EXIT"),
       under("tini --", script("bash", "trap on EXIT", rescued: 143)),
       script("bash", "background and wait -n"), inline("dash", "timeout 100 sidekiq; echo x"),
       under("tini -g --", inline("bash", "sidekiq; echo x")),
       # These signal the cat as well, which dies from it, so the pipeline ends.
       *TELL_EVERYBODY.map { |init| under(init, inline("bash", "sidekiq | cat", rescued: 143)) },
       form("dash -c '#{RUN} -- dash script; echo x' script: foreground",
            ["dash", "-c", "#{RUN} -- dash script; echo x"], script: "foreground"),
       *%w[dash bash].map { |shell| script(shell, "two in the background and wait", sidekiqs: 2) },
       # Ksh also execs the last command of a script.
       *%w[zsh ksh].flat_map do |shell|
         [lone(shell), inline(shell, "sidekiq; echo x"), inline(shell, "sidekiq | cat"),
          script(shell, "foreground", **(shell == "ksh" ? SAFE : {})), script(shell, "trap and wait", untouched: 0)]
       end]
    end

    # With -g the shell gets the signal as well, and dies from a TERM. A TSTP suspends the cat; `run` continues only
    # shells.
    def in_place_of_inits
      [run("--", form("sidekiq", DIRECT)), run("-g --", form("sidekiq", DIRECT)),
       run("--", script("dash", "foreground")), run("-g --", script("dash", "foreground", rescued: 143)),
       run("--", inline("bash", "sidekiq; echo x")), run("-g --", inline("bash", "sidekiq; echo x", rescued: 143)),
       run("--", inline("bash", "sidekiq | cat")),
       run("-g --", inline("bash", "sidekiq | cat", rescued: 143)),
       run("--", script("bash", "trap on EXIT", rescued: 143)),
       run("--", form("dash -c 'tini -s -- dash script; echo x' script: foreground",
                      ["dash", "-c", "tini -s -- dash script; echo x"], script: "foreground"))]
    end

    def before_shells
      [inline("dash", "sidekiq"), script("dash", "trap and wait"), script("dash", "trap and foreground"),
       script("bash", "trap that sends TSTP, waits, sends TERM"), script("bash", "background and wait -n"),
       script("bash", "two in the background and wait", sidekiqs: 2), inline("dash", "timeout 100 sidekiq; echo x"),
       inline("busybox sh", "sidekiq || true"), inline("zsh", "sidekiq | cat"), inline("ksh", "sidekiq; echo x")]
        .map { |form| run("--", form) }
    end

    def direct
      [form("sidekiq", DIRECT, **SAFE),
       *INITS.keys.map { |init| under(init, form("sidekiq", DIRECT, **SAFE)) },
       inline("dash", "exec sidekiq", **SAFE), script("dash", "exec", **SAFE)]
    end

    # Without the relay each of these ends at once, and its worker with it.
    def ending_early
      [script("dash", "trap that exits", untouched: 0), script("bash", "trap that exits", untouched: 0),
       under("tini --", script("dash", "trap that exits"))]
    end

    # Programs that are not shells.
    def programs
      [form("perl -e 'system(\"sidekiq\")'", ["perl", "-e", "system(q(#{TARGET}))"]),
       form("timeout 100 sidekiq", ["timeout", "100", *DIRECT])]
    end

    # A process that ignores SIGCHLD passes that on to everything it starts.
    def deaf
      ruby = inline("dash", "sidekiq; echo x", before: 'Signal.trap("CLD", "IGNORE")')
      ruby.name += ", Signal.trap(\"CLD\", \"IGNORE\") in the application"
      # Dash would not ignore it.
      [script("bash", "SIGCHLD ignored"), ruby]
    end

    # `shell -c` with only one command, which most shells exec.
    def lone(shell, text = "sidekiq") = inline(shell, text, **(shell == "dash" ? {} : SAFE))

    # `shell -c`
    def inline(shell, text, **options)
      form("#{shell} -c '#{text}'", [*SHELLS.fetch(shell), "-c", text.sub("sidekiq", TARGET)], **options)
    end

    # `shell script`
    def script(shell, script, **options)
      form("#{shell} script: #{script}", [*SHELLS.fetch(shell), "script"], script:, **options)
    end

    # A form with an init in front. With a shell in between, both die from the signal.
    def under(init, form, untouched: 143)
      alone, with_shell = INITS.fetch(init)
      docker = init == "docker run --init"
      form.name = "#{init} #{form.name}"
      form.command = [*init.split, *form.command] unless docker
      form.init = docker
      form.tstp = form.safe? ? alone : with_shell
      form.untouched = untouched unless form.safe?
      # It reads the signal from a queue, as its own, and drops it.
      form.tstp_rescued = "lost" if init == "catatonit --"
      form.terms = 1..2 if TELL_EVERYBODY.include?(init)
      form
    end

    # A form with `run` in front.
    def run(options, form)
      form.name = "#{RUN} #{options} #{form.name}"
      form.command = [*RUN.split, *options.split, *form.command]
      form
    end

    def form(name, command, **options)
      new(name:, command:, init: false, sidekiqs: 1, untouched: 137, rescued: 0, terms: 1..1, tstp: "lost",
          tstp_rescued: "quiet", before: "", timeout: 5, majors: [6, 7, 8], **options)
    end
  end

  SAFE = { untouched: 0, tstp: "quiet" }.freeze
  private_constant :SAFE
end

require_relative "program_forms"
