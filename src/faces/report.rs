//! What is said of processes to machines: the form of `status --json`, and what Ruby's status is made of.

use std::borrow::Cow;
use std::path::Path;

use serde::Serialize;

use crate::edges::directory::Entry;
use crate::edges::record::Record;
use crate::rules::probe::{self, Facts, MAX_BEAT_AGE, Presence, Probe};

/// A directory. `schema` grows when a field changes its meaning or goes.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    directory: Cow<'a, str>,
    ready: bool,
    live: bool,
    drained: bool,
    processes: Vec<Process<'a>>,
}

/// A process, with what the probes answer for it.
#[derive(Debug, Serialize)]
pub struct Process<'a> {
    pid: i32,
    /// It is there, and its pid is its own.
    exists: bool,
    ready: bool,
    live: bool,
    drained: bool,
    /// Seconds since Ruby's heart last beat.
    beat_age: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    record: Option<&'a Record>,
}

impl<'a> Report<'a> {
    /// Reports on all entries of a directory.
    #[must_use]
    pub fn new(directory: &'a Path, entries: &'a [Entry], facts: &[Facts]) -> Self {
        let yes = |probe| probe::ask(facts, probe, MAX_BEAT_AGE).is_ok();
        Self {
            schema: 1,
            directory: directory.to_string_lossy(),
            ready: yes(Probe::Ready),
            live: yes(Probe::Live),
            drained: yes(Probe::Drained),
            processes: entries.iter().zip(facts).map(|(entry, facts)| Process::new(&entry.record, facts)).collect(),
        }
    }
}

impl<'a> Process<'a> {
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
            unreadable: record.as_ref().err().map(String::as_str),
            record: record.as_ref().ok(),
        }
    }
}
