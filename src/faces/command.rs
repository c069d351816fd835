//! The command `sidekiq-lifecycle`: what health checks, deploy scripts and people ask.
//!
//! Exit codes: 0 yes, 1 no (with the reason), 2 misuse, 3 could not tell.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{self, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use clap::{Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use crate::edges::directory::{DEFAULT, Directory, Entry, Error};
use crate::edges::record::now;
#[cfg(target_os = "linux")]
use crate::faces::doctor;
use crate::faces::init;
use crate::faces::report::Report;
use crate::rules::probe::{self, Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::rules::state::State;

const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle check                            is every Sidekiq of this application ready?
  sidekiq-lifecycle check live --max-age 120         is Ruby's heart still beating?
  sidekiq-lifecycle check drained --dir /app/tmp/sidekiq
  sidekiq-lifecycle status                           a table for people
  sidekiq-lifecycle status --json                    the same for machines
  sidekiq-lifecycle doctor                           does a SIGTERM reach Sidekiq, with time enough?
  sidekiq-lifecycle doctor -- bin/entrypoint         the same of a command line, tried

  HEALTHCHECK CMD [\"/path/from/sidekiq-lifecycle/path\", \"check\", \"--dir\", \"/app/tmp/sidekiq\"]

Exit codes: 0 yes, 1 no (the reason is printed), 2 misuse, 3 could not tell (doctor).";

/// Ask a Sidekiq process where it is in its life.
#[derive(Debug, Parser)]
#[command(name = "sidekiq-lifecycle", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer one question with the exit code: 0 yes, 1 no and why
    Check {
        /// What to ask
        #[arg(value_enum, default_value_t = Question::Ready)]
        probe: Question,
        #[command(flatten)]
        place: Place,
        /// The oldest heartbeat that still counts, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = MAX_BEAT_AGE.as_secs_f64(), value_parser = seconds)]
        max_age: f64,
    },
    /// Show every Sidekiq of a lifecycle directory
    Status {
        #[command(flatten)]
        place: Place,
        /// Print JSON for machines
        #[arg(long)]
        json: bool,
    },
    Run(init::Options),
    /// Tell whether a SIGTERM reaches Sidekiq and leaves it the time it takes: 0 safe, 1 loses jobs, 3 could not tell
    ///
    /// Without a COMMAND it looks at the Sidekiqs that run here. With one it launches that, as PID 1 of a PID namespace
    /// of its own, waits until a Sidekiq stands, examines it, and sends PID 1 a real SIGTERM. That is a real Sidekiq, which
    /// takes jobs from the Redis that it is set to.
    Doctor {
        #[command(flatten)]
        place: Place,
        /// Print JSON for machines
        #[arg(long)]
        json: bool,
        /// How long a Sidekiq may take to stand, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, requires = "command")]
        timeout: f64,
        /// A command line to try before it is deployed
        #[arg(last = true, value_name = "COMMAND", conflicts_with = "directory")]
        command: Vec<OsString>,
    },
    /// Print where this native command lies, for a health check that should not start Ruby
    Path,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The lifecycle directory [default: $SIDEKIQ_LIFECYCLE_DIR, else tmp/sidekiq]
    #[arg(long = "dir", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Place {
    /// As Ruby finds it; absolute, for whoever reads the answer may not know where it was asked.
    fn directory(self) -> Directory {
        let from_environment = || env::var_os("SIDEKIQ_LIFECYCLE_DIR").filter(|path| !path.is_empty());
        let path = self.directory.or_else(|| from_environment().map(PathBuf::from)).unwrap_or_else(|| DEFAULT.into());
        Directory::new(&path::absolute(&path).unwrap_or(path), None)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Question {
    /// Started, and fetching jobs
    Ready,
    /// There, and Ruby's heart beats; stays true while it drains
    Live,
    /// Told to be quiet or to stop, and finished with every job
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

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 60".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(seconds),
        _ => Err("write a number of seconds greater than 0".to_owned()),
    }
}

/// Runs the command line of the calling process. Misuse is answered by clap, with exit code 2.
#[must_use]
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        // Whoever read our output has gone; there is nobody to tell.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidekiq-lifecycle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<ExitCode> {
    let out = &mut anstream::stdout().lock();
    match command {
        Command::Check { probe, place, max_age } => {
            let max_age = Duration::try_from_secs_f64(max_age).unwrap_or(MAX_BEAT_AGE);
            Ok(check(out, probe.into(), &place.directory(), max_age))
        }
        Command::Status { place, json } => status(out, &place.directory(), json),
        Command::Run(options) => Ok(init::run(options)),
        Command::Doctor { place, json, timeout, command } => doctor(out, place, json, timeout, &command),
        Command::Path => {
            writeln!(out, "{}", env::current_exe()?.display())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(target_os = "linux")]
fn doctor(out: &mut impl Write, place: Place, json: bool, timeout: f64, command: &[OsString]) -> io::Result<ExitCode> {
    let code = if command.is_empty() {
        doctor::main(out, &place.directory(), json)?
    } else {
        doctor::trial::main(out, command, Duration::from_secs_f64(timeout), json)?
    };
    Ok(ExitCode::from(code))
}

#[cfg(not(target_os = "linux"))]
fn doctor(out: &mut impl Write, _: Place, _: bool, _: f64, _: &[OsString]) -> io::Result<ExitCode> {
    writeln!(out, "could not tell: the doctor needs Linux")?;
    Ok(ExitCode::from(3))
}

fn check(out: &mut impl Write, probe: Probe, directory: &Directory, max_age: Duration) -> ExitCode {
    let answer = match directory.read() {
        Ok(entries) => probe::ask(&facts(&entries), probe, max_age),
        Err(error) => Err(error.to_string()),
    };
    let (code, line) = match answer {
        Ok(()) => (ExitCode::SUCCESS, probe.to_string()),
        Err(reason) => (ExitCode::FAILURE, format!("not {probe}: {}", one_line(&reason))),
    };
    // The exit code is the answer, whether or not anybody can read the line.
    let _ = writeln!(out, "{line}");
    code
}

/// Records hold what others have written, and a terminal obeys control characters.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn facts(entries: &[Entry]) -> Vec<Facts> {
    entries.iter().map(Entry::facts).collect()
}

fn status(out: &mut impl Write, directory: &Directory, json: bool) -> io::Result<ExitCode> {
    let entries = match directory.read() {
        Ok(entries) => entries,
        Err(Error::Missing(_)) => Vec::new(),
        Err(error) => {
            eprintln!("sidekiq-lifecycle: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let facts = facts(&entries);
    if json {
        serde_json::to_writer_pretty(&mut *out, &Report::new(directory.path(), &entries, &facts))?;
        writeln!(out)?;
    } else if entries.is_empty() {
        writeln!(out, "No Sidekiq has registered in {}.", directory.path().display())?;
    } else {
        table(out, &entries, &facts, now())?;
    }
    Ok(ExitCode::SUCCESS)
}

const HEADINGS: [&str; 8] = ["PID", "STATE", "SINCE", "BUSY", "BEAT", "SIDEKIQ", "TAG", "WHY"];

fn table(out: &mut impl Write, entries: &[Entry], facts: &[Facts], now: Timestamp) -> io::Result<()> {
    let row = |(entry, facts)| row(entry, facts, now).map(|cell| one_line(&cell));
    let rows: Vec<[String; 8]> = entries.iter().zip(facts).map(row).collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let bold = Style::new().bold();
    let headings: Vec<String> = HEADINGS.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    writeln!(out, "{bold}{}{bold:#}", headings.join("  ").trim_end())?;
    for (row, facts) in rows.iter().zip(facts) {
        let style = style(facts);
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{style}{}{style:#}", cells.join("  ").trim_end())?;
    }
    for entry in entries {
        for problem in entry.record.iter().flat_map(|record| &record.problems) {
            writeln!(out, "{}: {}", entry.pid, one_line(problem))?;
        }
    }
    Ok(())
}

fn row(entry: &Entry, facts: &Facts, now: Timestamp) -> [String; 8] {
    let dash = || "-".to_owned();
    let Ok(record) = &entry.record else {
        let why = facts.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
        return [entry.pid.to_string(), "?".to_owned(), dash(), dash(), dash(), dash(), dash(), why];
    };
    let state = match (facts.presence, record.state) {
        (Presence::Here, State::Quiet | State::Stopping) if record.drained => format!("{}, drained", record.state),
        (Presence::Here, state) | (_, state @ State::Stopped) => state.to_string(),
        (Presence::Gone, state) => format!("gone (was {state})"),
        (Presence::Elsewhere, state) => format!("{state} in another container"),
    };
    let busy = match record.about.concurrency {
        Some(concurrency) => format!("{}/{concurrency}", record.busy),
        None => record.busy.to_string(),
    };
    let beat = facts.beat_age.map_or_else(dash, |age| ago(age.as_secs()));
    let why = match record.exit_status {
        Some(status) => format!("exit {status}{}", record.why.iter().map(|why| format!(", {why}")).collect::<String>()),
        None => record.why.clone().unwrap_or_else(dash),
    };
    let since = SignedDuration::from_secs(now.as_second() - record.since.as_second()).as_secs().max(0);
    [
        entry.pid.to_string(),
        state,
        ago(since.unsigned_abs()),
        busy,
        beat,
        record.about.sidekiq.clone().unwrap_or_else(dash),
        record.about.tag.clone().filter(|tag| !tag.is_empty()).unwrap_or_else(dash),
        why,
    ]
}

fn style(facts: &Facts) -> Style {
    let colour = |colour: AnsiColor| colour.on_default();
    match (facts.counts(), facts.answer(Probe::Live, MAX_BEAT_AGE).is_ok(), facts.state) {
        (true, true, State::Running) => colour(AnsiColor::Green),
        (true, true, _) => colour(AnsiColor::Yellow),
        (true, false, _) => colour(AnsiColor::Red),
        (false, ..) if facts.state == State::Stopped => Style::new().dimmed(),
        (false, ..) => colour(AnsiColor::Red),
    }
}

/// A stretch of time in its two largest units.
fn ago(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s ago"),
        (0, 0, minutes) => format!("{minutes} min {} s ago", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {} min ago", minutes % 60),
        (days, hours, _) => format!("{days} d {} h ago", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn stretches_of_time() {
        for (seconds, text) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (60, "1 min 0 s ago"),
            (3599, "59 min 59 s ago"),
            (3661, "1 h 1 min ago"),
            (90061, "1 d 1 h ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }

    #[test]
    fn ages() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "soon", "NaN", "1e999", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
