//! The command `sidekiq-lifecycle`, for health checks, deploy scripts and people.
//!
//! Exit codes: 0 yes, 1 no (with the reason), 2 misuse, 3 could not tell, 124 timed out.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::iter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

#[cfg(target_os = "linux")]
use crate::doctor;
use crate::init;
use crate::model::duration;
use crate::model::probe::{MAX_BEAT_AGE, Probe};
use crate::output::print_error;
use crate::store::report;
#[cfg(target_os = "linux")]
use crate::sys::signals::disposition;

pub mod control;
pub mod fleet;
pub mod generate;
pub mod lost;
mod manual;
pub mod status;
pub mod target;

use fleet::Fleet;
use generate::Generate;
use target::{DirArg, Target, TargetArgs};

const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle check                            is every Sidekiq of this application ready?
  sidekiq-lifecycle check live --max-age 2m          has Ruby sent a heartbeat in the last two minutes?
  sidekiq-lifecycle check drained --dir /app/tmp/sidekiq
  sidekiq-lifecycle status                           print a table
  sidekiq-lifecycle status --json                    print JSON
  sidekiq-lifecycle lost                             which jobs did a SIGKILL take, and are they put back?
  sidekiq-lifecycle quiet --wait --timeout 2h        take no more jobs, wait for the running ones
  sidekiq-lifecycle wait drained --timeout 10m
  sidekiq-lifecycle stop --timeout 1m --kill-after 30s
  bundle exec sidekiq-lifecycle fleet status         every Sidekiq that uses the application's Redis
  sidekiq-lifecycle doctor                           does SIGTERM reach Sidekiq, with enough time to stop?
  sidekiq-lifecycle doctor -- bin/entrypoint         launch a command line and test it

  HEALTHCHECK CMD [\"/path/from/sidekiq-lifecycle/path\", \"check\", \"--dir\", \"/app/tmp/sidekiq\"]

Exit codes: 0 yes, 1 no (the reason is printed), 2 misuse, 3 could not tell (doctor), 124 timed out
(quiet, stop, wait).";

/// Query and control the lifecycle of Sidekiq processes
#[derive(Debug, Parser)]
#[command(name = "sidekiq-lifecycle", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer a probe: exit code 0 for yes, 1 for no (the reason is printed)
    Check {
        /// The probe
        #[arg(value_enum, default_value_t = Question::Ready)]
        probe: Question,
        #[command(flatten)]
        target: TargetArgs,
        /// How old the last heartbeat may be
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse_argument)]
        max_age: Duration,
    },
    Status(status::Options),
    Lost(lost::Options),
    Quiet(control::options::Quiet),
    Stop(control::options::Stop),
    Wait(control::options::Wait),
    Run(init::options::Options),
    Fleet(Fleet),
    Generate(Generate),
    /// Print what a command line of `fleet` or `generate` asks for, as JSON
    #[command(hide = true)]
    Parse {
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Find out whether a stop loses jobs: exit code 0 for safe, 1 for loses jobs, 3 for could not tell
    ///
    /// Without a COMMAND, it examines the Sidekiq processes that run here. With one, it launches the COMMAND as PID 1 of a
    /// new PID namespace, waits until Sidekiq has started, examines it, and sends PID 1 a real SIGTSTP and SIGTERM. The
    /// Sidekiq is real: it takes jobs from the Redis that it is configured to use.
    Doctor {
        #[command(flatten)]
        directory: DirArg,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// How long a Sidekiq may take to start
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse_argument, requires = "command")]
        timeout: Duration,
        /// A command line to test before you deploy it
        #[arg(last = true, value_name = "COMMAND", conflicts_with = "directory")]
        command: Vec<OsString>,
    },
    /// Print the path of this executable, for a health check that should not start Ruby
    Path,
    /// Print a shell completion script
    #[command(after_help = manual::EXAMPLES)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: manual::Shell,
    },
    /// Print the manual page sidekiq-lifecycle(1)
    Man,
}

/// The command line of `run` alone: it stays in memory for as long as its command, without the other definitions.
#[derive(Debug, Parser)]
#[command(name = "sidekiq-lifecycle", version, disable_help_subcommand = true, max_term_width = 100)]
enum InitAlone {
    Run(init::options::Options),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Question {
    /// Started, and taking jobs
    Ready,
    /// The process exists, and its last heartbeat is recent; stays true while it drains
    Live,
    /// Quiet or stopping, and finished with every job
    Drained,
}

impl From<Question> for Probe {
    fn from(question: Question) -> Self {
        match question {
            Question::Ready => Self::Ready,
            Question::Live => Self::Live,
            Question::Drained => Self::Drained,
        }
    }
}

/// Runs the command line of the calling process. Misuse is answered by clap, with exit code 2.
#[must_use]
pub fn main() -> ExitCode {
    match run(plain_check().or_else(plain_run).or_else(init_alone).unwrap_or_else(|| Arguments::parse().command)) {
        Ok(code) => code,
        // The reader of our output has gone; nobody is left to report to.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A health check runs every few seconds, in the plainest form: `check`, `check live`, `check ready --dir DIR`. That form is
/// parsed here, because to set up clap takes as long as the whole check. Every other form is left to clap.
fn plain_check() -> Option<Command> {
    let mut words = env::args_os().skip(1);
    words.next().filter(|word| word == "check")?;
    let mut next = words.next();
    let probe = next.as_ref().and_then(|word| Question::from_str(word.to_str()?, false).ok());
    if probe.is_some() {
        next = words.next();
    }
    let directory = match next {
        Some(word) if word == "--dir" => Some(words.next().filter(|word| !word.as_encoded_bytes().starts_with(b"-"))?),
        Some(_) => return None,
        None => None,
    };
    let has_directory = directory.as_ref().is_none_or(|path| !path.is_empty());
    (has_directory && words.next().is_none()).then(|| Command::Check {
        probe: probe.unwrap_or(Question::Ready),
        target: TargetArgs::of_directory(directory.map(PathBuf::from)),
        max_age: MAX_BEAT_AGE,
    })
}

/// `run -- COMMAND`, the form of an ENTRYPOINT, is parsed here too: the parser would take as long as the rest of the start,
/// and leave memory behind that is held as long as the command runs.
fn plain_run() -> Option<Command> {
    let mut words = env::args_os().skip(1);
    let is_plain = words.next().is_some_and(|word| word == "run") && words.next().is_some_and(|word| word == "--");
    let command: Vec<OsString> = if is_plain { words.collect() } else { Vec::new() };
    (!command.is_empty()).then(|| Command::Run(init::options::Options::plain(command)))
}

fn init_alone() -> Option<Command> {
    env::args_os().nth(1).filter(|word| word == "run")?;
    let InitAlone::Run(options) = InitAlone::parse();
    Some(Command::Run(options))
}

fn run(command: Command) -> io::Result<ExitCode> {
    let out = &mut anstream::stdout().lock();
    match command {
        Command::Check { probe, target, max_age } => Ok(check(out, probe.into(), &target.into(), max_age)),
        Command::Status(options) => status::main(out, options),
        Command::Lost(options) => lost::main(out, options),
        Command::Quiet(options) => Ok(control::quiet(options)),
        Command::Stop(options) => Ok(control::stop(options)),
        Command::Wait(options) => Ok(control::wait(options)),
        Command::Run(options) => Ok(init::run(options)),
        Command::Fleet(_) => Ok(refuse(fleet::NEEDS_RUBY)),
        Command::Generate(_) => Ok(refuse(generate::NEEDS_RUBY)),
        Command::Parse { words } => match request(&words) {
            Some(request) => writeln!(out, "{request}").map(|()| ExitCode::SUCCESS),
            None => Ok(ExitCode::FAILURE),
        },
        Command::Doctor { directory, json, timeout, command } => doctor(out, directory, json, timeout, &command),
        Command::Path => {
            writeln!(out, "{}", env::current_exe()?.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => manual::completions(out, shell, Arguments::command()),
        Command::Man => manual::page(out, Arguments::command()),
    }
}

/// What a command line of `fleet` or `generate` asks for, as JSON; none if the words are misuse, ask for help, or are another
/// command.
///
/// Both are parsed here and run in Ruby: there is one command with one help, one completion and one manual page, though some of
/// it needs the application. The parser is not in the native extension, because every Sidekiq would load it. So the gem's command
/// asks with the hidden subcommand `parse`. If there is no request it runs the native command with the same words, which answers
/// misuse and `--help`.
fn request(words: &[OsString]) -> Option<String> {
    let line = iter::once(OsStr::new("sidekiq-lifecycle")).chain(words.iter().map(OsString::as_os_str));
    match Arguments::try_parse_from(line).ok()?.command {
        Command::Fleet(fleet) => serde_json::to_string(fleet.action()).ok(),
        Command::Generate(generate) => serde_json::to_string(&generate).ok(),
        _ => None,
    }
}

/// Refuses a command that only Ruby can run (see [`request`]).
fn refuse(why: &str) -> ExitCode {
    print_error(why);
    ExitCode::from(2)
}

#[cfg(target_os = "linux")]
fn doctor(
    out: &mut impl Write,
    directory: DirArg,
    json: bool,
    timeout: Duration,
    command: &[OsString],
) -> io::Result<ExitCode> {
    disposition::wait_for_children()?;
    let code = if command.is_empty() {
        doctor::main(out, &directory.directory(), json)?
    } else {
        doctor::trial::main(out, command, timeout, json)?
    };
    Ok(ExitCode::from(code))
}

#[cfg(not(target_os = "linux"))]
fn doctor(out: &mut impl Write, _: DirArg, _: bool, _: Duration, _: &[OsString]) -> io::Result<ExitCode> {
    writeln!(out, "could not tell: the doctor needs Linux")?;
    Ok(ExitCode::from(3))
}

fn check(out: &mut impl Write, probe: Probe, target: &Target, max_age: Duration) -> ExitCode {
    let observed = target.observe(true).map_err(|error| error.to_string());
    let (code, line) = match report::answer(observed, probe, max_age) {
        Ok(line) => (ExitCode::SUCCESS, line),
        Err(line) => (ExitCode::FAILURE, line),
    };
    // The exit code is the answer, whether or not anybody can read the line.
    let _ = writeln!(out, "{line}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    fn request_of(line: &str) -> Option<serde_json::Value> {
        let json = request(&line.split(' ').map(OsString::from).collect::<Vec<_>>())?;
        serde_json::from_str(&json).ok()
    }

    #[test]
    fn what_ruby_runs() {
        let quiet = request_of("fleet quiet --match worker-*").unwrap_or_default();
        assert_eq!((&quiet["action"], &quiet["matching"][0]), (&"quiet".into(), &"worker-*".into()));
        let stop = request_of("fleet stop --batch 10% --timeout 2m").unwrap_or_default();
        assert_eq!((&stop["batch"]["percent"], &stop["timeout"]), (&10.into(), &120.0.into()));
        assert!(request_of("generate ecs").is_some());
        for line in ["fleet quiet --sideways", "fleet --help", "generate", "path", "parse -- fleet status"] {
            assert_eq!(request_of(line), None, "{line}");
        }
    }

    #[test]
    fn the_fast_path_asks_as_the_parser_does() {
        let Command::Check { max_age, .. } = Arguments::parse_from(["sidekiq-lifecycle", "check"]).command else {
            unreachable!("check was asked for");
        };
        assert_eq!(max_age, MAX_BEAT_AGE);
        for command in [&["true"][..], &["worker", "--grace", "3s", "--", "-x"]] {
            let line = ["sidekiq-lifecycle", "run", "--"].iter().chain(command);
            let Command::Run(parsed) = Arguments::parse_from(line).command else {
                unreachable!("run was asked for");
            };
            let plain = init::options::Options::plain(command.iter().map(OsString::from).collect());
            assert_eq!(format!("{plain:?}"), format!("{parsed:?}"));
        }
    }
}
