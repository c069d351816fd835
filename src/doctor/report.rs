//! The doctor's report.

use std::time::Duration;

use serde::Serialize;

use super::examination::Examination;
use crate::model::diagnosis::Verdict;
use crate::model::program::Sidekiq;
use crate::store::directory::Directory;
use crate::store::lookup::{self, ObservedProcess};
use crate::sys::platform::{self, Service};
use crate::sys::procfs::Snapshot;

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The version of the JSON; it increases when a field changes its meaning or is removed.
pub(super) const SCHEMA: u32 = 3;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(super) schema: u32,
    pub(super) verdict: Verdict,
    /// The verdict and its reasons in one line.
    pub(super) summary: String,
    pub(super) sidekiqs: Vec<Examination>,
}

impl Report {
    /// Examines the live Sidekiqs of a lifecycle directory or, if it has none, those of /proc.
    #[must_use]
    pub fn of(directory: &Directory) -> Self {
        let all = Snapshot::living();
        let found = find(&all, directory);
        let whence = format!("none is registered in {}, and none is in /proc", directory.path().display());
        Self::new(examine(&found, &all, |pid| platform::service(pid, PATIENCE)), &whence)
    }

    pub(super) fn new(sidekiqs: Vec<Examination>, whence: &str) -> Self {
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

    /// The exit code for the verdict.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Safe => 0,
            Verdict::LosesJobs => 1,
            Verdict::Unknown => 3,
        }
    }
}

/// Examines each process; `service` determines the systemd service of a process.
pub(super) fn examine(
    found: &[ObservedProcess],
    all: &[Snapshot],
    service: impl Fn(i32) -> Option<Service>,
) -> Vec<Examination> {
    let examine = |process: &ObservedProcess| {
        let snapshot = process.snapshot.as_ref()?;
        Some(Examination::of(snapshot, process, all, service(snapshot.pid)))
    };
    found.iter().filter_map(examine).collect()
}

/// The live Sidekiqs of a lifecycle directory or, if it has none, those of /proc.
pub(super) fn find(all: &[Snapshot], directory: &Directory) -> Vec<ObservedProcess> {
    let registered = lookup::registered(directory).unwrap_or_default().living;
    if registered.is_empty() { lookup::among(all) } else { registered }
}

pub(super) fn is_started(snapshot: &Snapshot) -> bool {
    matches!(snapshot.sidekiq(), Some(Sidekiq::Started { .. }))
}
