//! The doctor: tells of every Sidekiq whether it loses jobs when it is told to stop, and why, from outside.
//!
//! It reads /proc and the lifecycle directory, asks systemd where there is one, and changes nothing. [`trial`] does the
//! same of a command line that it launches itself.

mod examination;
mod text;
pub mod trial;

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::model::diagnosis::Verdict;
use crate::model::program::Sidekiq;
use crate::store::directory::Directory;
use crate::store::lookup::{self, Found};
use crate::sys::platform;
use crate::sys::procfs::Snapshot;
use examination::Examination;

/// The version of the JSON; it grows when a field changes its meaning or goes.
const SCHEMA: u32 = 2;

/// All that the doctor says.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    verdict: Verdict,
    /// The verdict and its reasons in one line.
    summary: String,
    sidekiqs: Vec<Examination>,
}

impl Report {
    /// Looks at the living Sidekiqs of a lifecycle directory, or, where there are none, at those of /proc.
    #[must_use]
    pub fn of(directory: &Directory) -> Self {
        let all = Snapshot::living();
        let found = find(&all, directory);
        let examine = |found: &Found| Examination::of(found, &all, platform::service(found.snapshot.pid));
        let whence = format!("neither is one registered in {}, nor is one in /proc", directory.path().display());
        Self::new(found.iter().map(examine).collect(), &whence)
    }

    fn new(sidekiqs: Vec<Examination>, whence: &str) -> Self {
        let verdict = sidekiqs.iter().map(Examination::verdict).max().unwrap_or(Verdict::Unknown);
        let decisive: Vec<&Examination> = sidekiqs.iter().filter(|sidekiq| sidekiq.verdict() == verdict).collect();
        let reasons: Vec<String> = match decisive.as_slice() {
            [] => vec![format!("no Sidekiq is running here: {whence}")],
            [one] if sidekiqs.len() == 1 => one.reasons().into_iter().collect(),
            several => several.iter().filter_map(|one| Some(format!("pid {}: {}", one.pid, one.reasons()?))).collect(),
        };
        let colon = if reasons.is_empty() { "" } else { ": " };
        Self { schema: SCHEMA, verdict, summary: format!("{verdict}{colon}{}", reasons.join("; ")), sidekiqs }
    }

    /// The exit code that says the same.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Safe => 0,
            Verdict::LosesJobs => 1,
            Verdict::Unknown => 3,
        }
    }

    /// Prints it.
    ///
    /// # Errors
    /// Whoever reads it has gone.
    pub fn print(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            serde_json::to_writer_pretty(&mut *out, self)?;
            return writeln!(out);
        }
        text::print(out, self)
    }
}

/// The living Sidekiqs of a lifecycle directory, or, where there are none, those of /proc.
fn find(all: &[Snapshot], directory: &Directory) -> Vec<Found> {
    let registered = lookup::registered(directory).unwrap_or_default().living;
    if registered.is_empty() { lookup::among(all) } else { registered }
}

fn is_started(snapshot: &Snapshot) -> bool {
    matches!(snapshot.sidekiq(), Some(Sidekiq::Started { .. }))
}

/// Examines the Sidekiqs of a lifecycle directory, or of /proc, and prints what was found. Gives back the exit code.
///
/// # Errors
/// Whoever reads it has gone.
pub fn main(out: &mut impl Write, directory: &Directory, json: bool) -> io::Result<u8> {
    if !Path::new("/proc/self/status").exists() {
        writeln!(out, "{}: there is no /proc here", Verdict::Unknown)?;
        return Ok(3);
    }
    let report = Report::of(directory);
    report.print(out, json)?;
    Ok(report.exit_code())
}
