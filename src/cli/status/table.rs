//! The status as a table for people.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::cli::target::Target;
use crate::model::duration;
use crate::model::job::{self, Job};
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::state::State;
use crate::model::text::one_line;
use crate::output::table::{self, Tone};
use crate::store::lookup::ObservedProcess;
use crate::store::record::{Jobs, Record, now};

/// For people.
///
/// # Errors
/// The output cannot be written because its reader has exited.
pub fn print(out: &mut impl Write, target: &Target, processes: &[ObservedProcess]) -> io::Result<()> {
    match (processes, target.directory()) {
        ([], Some(directory)) => writeln!(out, "No Sidekiq has registered in {}.", directory.display()),
        ([], None) => writeln!(out, "No Sidekiq runs here."),
        (processes, _) => print_table(out, processes, now()),
    }
}

const HEADINGS: [&str; 8] = ["PID", "STATE", "SINCE", "BUSY", "BEAT", "SIDEKIQ", "TAG", "WHY"];

fn print_table(out: &mut impl Write, processes: &[ObservedProcess], now: Timestamp) -> io::Result<()> {
    let rows: Vec<_> = processes.iter().map(|process| (row(process, now).to_vec(), tone(&process.facts()))).collect();
    for line in table::format(&HEADINGS, &rows) {
        writeln!(out, "{line}")?;
    }
    for process in processes {
        for line in process.record.iter().flat_map(|record| jobs(record, process, now)) {
            writeln!(out, "{}: {line}", process.pid)?;
        }
        for problem in process.record.iter().flat_map(|record| &record.problems) {
            writeln!(out, "{}: {}", process.pid, one_line(&problem.message))?;
        }
    }
    Ok(())
}

/// The jobs that it runs, as far as its flight recorder says, or that it waits for; and those that it could not finish.
fn jobs(record: &Record, process: &ObservedProcess, now: Timestamp) -> Vec<String> {
    let Jobs { running, interrupted, lost } = &record.jobs;
    let is_waiting = process.facts().counts() && record.state != State::Running;
    let running = match &process.in_hand {
        Some(in_hand) => in_hand.as_slice(),
        None if is_waiting => running.as_slice(),
        None => &[],
    };
    let line = |what: &str, jobs: &[Job]| (!jobs.is_empty()).then(|| format!("{what}: {}", job::list(jobs, now)));
    let interrupted = line("interrupted at Sidekiq's shutdown timeout", interrupted);
    [line(if is_waiting { "still running" } else { "running" }, running), interrupted, line("lost", lost)]
        .into_iter()
        .flatten()
        .collect()
}

fn row(process: &ObservedProcess, now: Timestamp) -> [String; 8] {
    let dash = || "-".to_owned();
    let facts = &process.facts();
    let Ok(record) = &process.record else {
        let why = facts.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
        return [facts.pid.to_string(), "?".to_owned(), dash(), dash(), dash(), dash(), dash(), why];
    };
    let state = match (facts.presence, record.state) {
        (Presence::Here, State::Quiet | State::Stopping) if record.drained => format!("{}, drained", record.state),
        (Presence::Here, State::Quiet) if record.stops_when_drained.is_some() => "quiet, then stops".to_owned(),
        (Presence::Here, state) | (_, state @ State::Stopped) => state.to_string(),
        (Presence::Gone, state) => format!("gone (was {state})"),
        (Presence::Elsewhere, state) => format!("{state} elsewhere"),
    };
    let busy = match record.about.concurrency {
        Some(concurrency) => format!("{}/{concurrency}", record.busy),
        None => record.busy.to_string(),
    };
    let ago = |seconds| format!("{} ago", duration::format(seconds));
    let why = Some(record.ending()).filter(|why| !why.is_empty()).unwrap_or_else(dash);
    [
        facts.pid.to_string(),
        state,
        ago(now.duration_since(record.since).as_secs_f64()),
        busy,
        facts.beat_age.map_or_else(dash, |age| ago(age.as_secs_f64())),
        record.about.sidekiq.clone().unwrap_or_else(dash),
        record.about.tag.clone().filter(|tag| !tag.is_empty()).unwrap_or_else(dash),
        why,
    ]
}

fn tone(facts: &Facts) -> Tone {
    match (facts.counts(), facts.answer(Probe::Live, MAX_BEAT_AGE).is_ok(), facts.state) {
        (true, true, State::Running) => Tone::Good,
        (true, true, _) => Tone::Changing,
        (false, _, State::Stopped) => Tone::Past,
        _ => Tone::Bad,
    }
}
