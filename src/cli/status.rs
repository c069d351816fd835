//! `status`: a table for people, JSON for machines, once or for as long as somebody watches.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};
use jiff::Timestamp;

use crate::cli::complain;
#[cfg(target_os = "linux")]
use crate::cli::screen;
use crate::cli::target::{Who, Whom};
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::state::State;
use crate::model::stop_timeout::stretch;
use crate::model::text::one_line;
use crate::store::lookup::Sight;
use crate::store::record::now;
use crate::store::report::Report;

const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle status
  sidekiq-lifecycle status --all --watch      every Sidekiq of this machine, until Ctrl-C
  sidekiq-lifecycle status --json | jq '.processes[].record.busy'";

/// Show every Sidekiq of a lifecycle directory
///
/// docs/json.md has every field of the JSON. With --watch and --json each change is one line.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    who: Whom,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    /// Show it anew whenever something changes, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Prints it.
///
/// # Errors
/// Whoever reads it has gone.
pub fn main(out: &mut impl Write, options: Options) -> io::Result<ExitCode> {
    let Options { who, json, watch } = options;
    let who = Who::from(who);
    if watch {
        return watched(out, &who, json);
    }
    let sights = match who.sights(false) {
        Ok(sights) => sights,
        Err(reason) => {
            complain(&reason);
            return Ok(ExitCode::FAILURE);
        }
    };
    if json {
        serde_json::to_writer_pretty(&mut *out, &Report::new(who.directory(), &sights))?;
        writeln!(out)?;
    } else {
        text(out, &who, &sights)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(target_os = "linux")]
use screen::watched;
#[cfg(not(target_os = "linux"))]
fn watched(_: &mut impl Write, _: &Who, _: bool) -> io::Result<ExitCode> {
    complain("--watch needs Linux, and this is another system");
    Ok(ExitCode::from(2))
}

/// For people.
///
/// # Errors
/// Whoever reads it has gone.
pub fn text(out: &mut impl Write, who: &Who, sights: &[Sight]) -> io::Result<()> {
    match (sights, who.directory()) {
        ([], Some(directory)) => writeln!(out, "No Sidekiq has registered in {}.", directory.display()),
        ([], None) => writeln!(out, "No Sidekiq runs here."),
        (sights, _) => table(out, sights, now()),
    }
}

const HEADINGS: [&str; 8] = ["PID", "STATE", "SINCE", "BUSY", "BEAT", "SIDEKIQ", "TAG", "WHY"];

fn table(out: &mut impl Write, sights: &[Sight], now: Timestamp) -> io::Result<()> {
    let rows: Vec<[String; 8]> = sights.iter().map(|sight| row(sight, now).map(|cell| one_line(&cell))).collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let bold = Style::new().bold();
    let headings: Vec<String> = HEADINGS.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    writeln!(out, "{bold}{}{bold:#}", headings.join("  ").trim_end())?;
    for (row, sight) in rows.iter().zip(sights) {
        let style = style(&sight.facts);
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{style}{}{style:#}", cells.join("  ").trim_end())?;
    }
    for sight in sights {
        for problem in sight.record.iter().flat_map(|record| &record.problems) {
            writeln!(out, "{}: {}", sight.facts.pid, one_line(problem))?;
        }
    }
    Ok(())
}

fn row(sight: &Sight, now: Timestamp) -> [String; 8] {
    let dash = || "-".to_owned();
    let facts = &sight.facts;
    let Ok(record) = &sight.record else {
        let why = facts.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
        return [facts.pid.to_string(), "?".to_owned(), dash(), dash(), dash(), dash(), dash(), why];
    };
    let state = match (facts.presence, record.state) {
        (Presence::Here, State::Quiet | State::Stopping) if record.drained => format!("{}, drained", record.state),
        (Presence::Here, state) | (_, state @ State::Stopped) => state.to_string(),
        (Presence::Gone, state) => format!("gone (was {state})"),
        (Presence::Elsewhere, state) => format!("{state} elsewhere"),
    };
    let busy = match record.about.concurrency {
        Some(concurrency) => format!("{}/{concurrency}", record.busy),
        None => record.busy.to_string(),
    };
    let ago = |seconds| format!("{} ago", stretch(seconds));
    let why = match record.exit_status {
        Some(status) => format!("exit {status}{}", record.why.iter().map(|why| format!(", {why}")).collect::<String>()),
        None => record.why.clone().unwrap_or_else(dash),
    };
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
