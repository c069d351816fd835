//! What the lifecycle does with its own flight recorder, and with those that others have left behind.

use std::time::{Duration, Instant};

use crate::model::killed_job::{KilledJob, Outcome};
use crate::store::recorders::{Found, FoundRecorder, LeftBehind, Whose};
use crate::store::writing::OpenDirectory;

use super::lifecycle::Lifecycle;
use super::recorder::Recorder;
use super::writer::Work;

const REMOVED: &str =
    "somebody has removed the flight recorder, so jobs in hand are lost if this process is killed; restart it";

/// How long the start waits for the recorder. A busy disk may take some seconds, and a job that runs before there is a
/// recorder is lost in a SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

impl Lifecycle {
    /// Records from now on which jobs are in hand, and looks for recorders of processes that are gone: now, and at each
    /// heartbeat. Waits 5 s at most.
    pub fn start_recorder(&self, threads: usize) {
        if self.is_ours() && self.recorder.get().is_none() {
            self.with_inner(|inner| inner.recorded_threads = Some(threads));
            self.hand_over(Work { recorder: Some(threads), left_behind: true, ..Work::default() });
            self.writer.wait(Instant::now() + PATIENCE);
        }
    }

    /// The recorder, once there is one.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.get()
    }

    /// The recorders that were found since the last call.
    pub fn take_left_behind(&self) -> Vec<LeftBehind> {
        if !self.is_ours() {
            return Vec::new();
        }
        let found = self.with_inner(|inner| std::mem::take(&mut inner.left_behind));
        found.into_iter().filter_map(LeftBehind::of).collect()
    }

    /// The jobs of such a recorder are in Redis: removes it.
    pub fn forget(&self, name: String) {
        if self.is_ours() {
            self.with_inner(|inner| inner.put_back.push(name));
            self.hand_over(Work { forget: true, ..Work::default() });
            self.wait();
        }
    }

    /// A job that a killed process had in hand has been put back, or is left where it is.
    pub fn note_outcome(&self, job: KilledJob) {
        if self.is_ours() {
            self.with_inner(|inner| {
                inner.record.put_back_jobs += u32::from(job.outcome == Outcome::PutBack);
                inner.outcomes.push(job);
            });
            self.hand_over(Work { outcomes: true, ..Work::default() });
        }
    }

    /// What a heartbeat has to do: look for others' recorders, and make the own one if that has failed before.
    pub(super) fn beat_recorder(&self) -> Work {
        let Some(recorder) = self.recorder.get() else {
            let recorder = self.with_inner(|inner| inner.recorded_threads);
            return Work { recorder, left_behind: recorder.is_some(), ..Work::default() };
        };
        recorder.beat();
        let problem = recorder.unrecorded().map(|(count, error)| {
            let (jobs, them) = if count == 1 { ("job", "it") } else { ("jobs", "them") };
            format!(
                "the flight recorder had no room for {count} {jobs}, and no file could be written for {them} ({error}), so \
                 a SIGKILL meanwhile would have lost {them}"
            )
        });
        self.set_problem("recorder_full", problem);
        Work { left_behind: true, ..Work::default() }
    }

    pub(super) fn close_recorder(&self) {
        if self.recorder.get().is_some() {
            self.hand_over(Work { close_recorder: true, ..Work::default() });
        }
    }

    pub(super) fn do_recording(&self, open: &OpenDirectory<'_>, work: Work) {
        if let Some(threads) = work.recorder.filter(|_| self.recorder.get().is_none()) {
            let made = open.create_recorder(threads).map(|made| drop(self.recorder.set(Recorder::new(made))));
            let problem = made.err().map(|error| {
                format!("no flight recorder, so jobs in hand are lost if this process is killed: {error}")
            });
            self.set_problem("recorder", problem);
        }
        if work.forget {
            for name in self.with_inner(|inner| std::mem::take(&mut inner.put_back)) {
                let problem = open.remove_recorder(&name).err().map(|error| error.to_string());
                self.set_problem("recorders", problem);
            }
        }
        if work.outcomes {
            let outcomes = self.with_inner(|inner| std::mem::take(&mut inner.outcomes));
            let problem = open.note_outcomes(&outcomes).err().map(|error| error.to_string());
            self.set_problem("recorders_history", problem);
        }
        if work.left_behind {
            self.look_for_left_behind();
        }
        if let Some(recorder) = self.recorder.get().filter(|recorder| work.close_recorder && recorder.is_useless()) {
            let _ = open.remove_recorder(recorder.name());
        }
    }

    fn look_for_left_behind(&self) {
        let own = self.recorder.get().map(Recorder::name);
        let found = self.directory.recorders(Whose::Gone);
        if let (Some(own), Ok(found)) = (own, &found) {
            let is_gone = found.iter().all(|it| it.name != own);
            self.set_problem("recorder", is_gone.then(|| REMOVED.to_owned()));
        }
        let found = found.map(|found| found.into_iter().filter(|it| Some(it.name.as_str()) != own).collect::<Vec<_>>());
        let unusable = |found: &FoundRecorder| match &found.state {
            Found::Unusable(why) => Some(format!("{}: {why}", found.name)),
            _ => None,
        };
        let problem = match &found {
            Ok(found) => {
                let unusable: Vec<String> = found.iter().filter_map(unusable).collect();
                let list = || {
                    format!("jobs in flight recorders that cannot be read are not put back: {}", unusable.join(", "))
                };
                (!unusable.is_empty()).then(list)
            }
            Err(error) => Some(error.to_string()),
        };
        self.set_problem("recorders", problem);
        self.with_inner(|inner| inner.left_behind = found.unwrap_or_default());
    }
}
