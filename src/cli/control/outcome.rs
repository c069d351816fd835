//! How a command has ended: for people, for machines, and as an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use nix::sys::signal::Signal;
use serde::Serialize;

use crate::model::text::one_line;
use crate::store::lookup::ObservedProcess;
use crate::store::report::{self, Process};

/// The same names and codes as `fleet` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reached,
    NotReached,
    TimedOut,
    /// By SIGINT, SIGTERM or SIGHUP.
    Interrupted(Signal),
}

/// The outcome, and why, in one sentence.
pub type End = (Outcome, String);

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NotReached => "not-reached",
            Self::TimedOut => "timed-out",
            Self::Interrupted(_) => "interrupted",
        }
    }

    /// As timeout(1) and shells have them.
    fn exit_code(self) -> u8 {
        match self {
            Self::Reached => 0,
            Self::NotReached => 1,
            Self::TimedOut => 124,
            Self::Interrupted(signal) => 128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or_default()),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    outcome: &'static str,
    reason: &'a str,
    processes: Vec<Process<'a>>,
}

/// Prints how a command ended, and returns the exit code for it.
pub fn finish((outcome, line): &End, observed: &[ObservedProcess], json: bool) -> ExitCode {
    let out = &mut io::stdout().lock();
    // The exit code is the answer, whether or not anybody can read the line.
    let _ = if json {
        let processes = observed.iter().map(|process| Process::of(process, true)).collect();
        let report = Report { schema: report::SCHEMA, outcome: outcome.name(), reason: line, processes };
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        writeln!(out, "{}", one_line(line))
    };
    ExitCode::from(outcome.exit_code())
}
