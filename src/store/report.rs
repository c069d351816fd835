//! The JSON of `status --json`, which Ruby's status also uses. docs/json.md describes every field.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::lookup::ObservedProcess;
use super::record::Record;
use crate::model::job::Job;
use crate::model::probe::{self, Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::text::one_line;

/// The version of the JSON; it increases when a field changes its meaning or is removed.
pub const SCHEMA: u32 = 2;

/// The line that `check` prints for a probe; `Err` if the answer is no. Nothing is known of the processes if they cannot be
/// `observed`.
///
/// # Errors
/// The line for no.
pub fn answer(
    observed: Result<Vec<ObservedProcess>, String>,
    probe: Probe,
    max_beat_age: Duration,
) -> Result<String, String> {
    let answer = observed.and_then(|processes| {
        let facts: Vec<Facts> = processes.iter().map(ObservedProcess::facts).collect();
        probe::ask(&facts, probe, max_beat_age)
    });
    answer.map(|()| probe.to_string()).map_err(|reason| format!("not {probe}: {}", one_line(&reason)))
}

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    directory: Option<Cow<'a, str>>,
    ready: bool,
    live: bool,
    drained: bool,
    processes: Vec<Process<'a>>,
}

/// A process, with the results of the probes.
#[derive(Debug, Serialize)]
pub struct Process<'a> {
    pid: i32,
    /// The process exists, and its pid is its own.
    exists: bool,
    ready: bool,
    live: bool,
    drained: bool,
    /// Seconds since the last heartbeat.
    beat_age: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<Cow<'a, str>>,
    /// What its flight recorder holds at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_hand: Option<&'a [Job]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    record: Option<&'a Record>,
}

impl<'a> Report<'a> {
    /// Reports on processes; `directory` is the one that they share.
    #[must_use]
    pub fn new(directory: Option<&'a Path>, processes: &'a [ObservedProcess]) -> Self {
        let facts: Vec<Facts> = processes.iter().map(ObservedProcess::facts).collect();
        let yes = |probe| probe::ask(&facts, probe, MAX_BEAT_AGE).is_ok();
        Self {
            schema: SCHEMA,
            directory: directory.map(Path::to_string_lossy),
            ready: yes(Probe::Ready),
            live: yes(Probe::Live),
            drained: yes(Probe::Drained),
            processes: processes.iter().map(|process| Process::of(process, directory.is_none())).collect(),
        }
    }
}

impl<'a> Process<'a> {
    /// Reports on one process, and where its record is, if `with_directory`.
    #[must_use]
    pub fn of(process: &'a ObservedProcess, with_directory: bool) -> Self {
        let is_shown = with_directory && (process.record.is_ok() || process.snapshot.is_none());
        let directory = is_shown.then(|| process.directory.path().to_string_lossy());
        Self { directory, in_hand: process.in_hand.as_deref(), ..Self::new(&process.record, &process.facts()) }
    }

    /// Reports on one process.
    #[must_use]
    pub fn new(record: &'a Result<Record, String>, facts: &Facts) -> Self {
        let yes = |probe| facts.answer(probe, MAX_BEAT_AGE).is_ok();
        Self {
            pid: facts.pid,
            exists: facts.presence == Presence::Here,
            ready: yes(Probe::Ready),
            live: yes(Probe::Live),
            drained: yes(Probe::Drained),
            beat_age: facts.beat_age.map(|age| age.as_secs_f64()),
            directory: None,
            in_hand: None,
            unreadable: record.as_ref().err().map(String::as_str),
            record: record.as_ref().ok(),
        }
    }
}
