//! Writes the record and the sentinels to disk, in order, on the writer's thread.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::store::error::Error;
use crate::store::files::Durability;
use crate::store::kept_descriptors::KeptDescriptors;
use crate::store::writing::OpenDirectory;
use crate::sys::time_limit::PATIENCE;

use super::clearing::sweep;
use super::lifecycle::Lifecycle;
use super::writer::Work;

/// What leaves a request in the directory.
const REQUEST: &str = "quiet --then-stop";

/// After this long without an answer from the disk there is a problem.
const LATE: Duration = Duration::from_secs(1);

impl Lifecycle {
    pub(super) fn publish(&self, durability: Durability) {
        self.hand_over(Work { publish: Some(durability), ..Work::default() });
    }

    /// Hands work to the writer; without a writer thread the calling thread does it.
    pub(super) fn hand_over(&self, work: Work) {
        if !self.writer.hand_over(work) {
            self.write(work, &mut self.writing.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits a moment until all work handed over is done, so that it is visible when a hook returns. After one wait
    /// has failed, later calls do not wait again.
    pub(super) fn wait(&self) {
        if self.is_ours() {
            let left = PATIENCE.saturating_sub(self.writer.behind());
            self.writer.wait(Instant::now() + left);
        }
    }

    /// Keeps a problem while the writer is late, and returns it.
    pub(super) fn check_lateness(&self) -> Option<String> {
        if !self.is_ours() {
            return None;
        }
        let problem = (self.writer.behind() >= LATE).then(|| Error::Late(self.directory.path().to_owned()).to_string());
        self.set_problem("directory_late", problem.clone());
        problem
    }

    /// Does the work. If it fails for lack of descriptors, releases the spare ones and tries once more.
    pub(super) fn write(&self, work: Work, kept: &mut KeptDescriptors) {
        if self.try_to_write(work, kept) && kept.release() {
            self.try_to_write(work, kept);
        }
    }

    /// Returns whether it failed for lack of descriptors.
    pub(super) fn try_to_write(&self, work: Work, kept: &mut KeptDescriptors) -> bool {
        let is_urgent = || self.writer.take_withdrawal();
        let mut is_out = false;
        let mut note = |done: Result<(), Error>| {
            let error = done.err();
            is_out |= error.as_ref().is_some_and(Error::is_out_of_descriptors);
            self.set_problem("directory", error.map(|error| error.to_string()));
        };
        let open = match self.directory.open_with(&is_urgent) {
            Ok(open) => open,
            Err(error) => {
                note(Err(error));
                return is_out;
            }
        };
        if work.withdraw {
            note(open.withdraw_ready());
        }
        if work.sweep {
            let hooks = open.hooks();
            self.with_inner(|inner| inner.remember_hooks(hooks));
            self.limit_relay();
            note(sweep(&open));
        }
        if work.strangers {
            self.check_sharing(&open);
        }
        self.do_recording(&open, work);
        if let Some(durability) = work.publish {
            note(self.write_record(&open, durability));
        }
        if work.retire {
            note(self.leave(&open));
            kept.release();
        } else {
            kept.keep(open, !self.writer.has_own_descriptors());
        }
        is_out
    }

    pub(super) fn write_record(&self, open: &OpenDirectory<'_>, durability: Durability) -> Result<(), Error> {
        let record = self.record();
        // Before the lock: the record of this process waits for nobody, and the last process to sync the sentinels
        // has read it.
        let written = open.publish_record(&record, durability);
        let lock = open.lock();
        // Whatever became of the record, the sentinels must be true.
        let settled = open.sync_sentinels(|| Some(self.record()));
        drop(lock);
        if open.take_stop_request(&record.identity) {
            self.with_inner(|inner| inner.request_stop(REQUEST));
            // Ruby checks whether the process has drained already.
            self.listener.call();
        }
        let published = written.and(settled);
        self.set_problem("directory", published.as_ref().err().map(ToString::to_string));
        if self.writer.is_last() {
            self.set_problem("directory_late", None);
        }
        let noted = self.record();
        if noted.problems != record.problems || noted.stops_when_drained != record.stops_when_drained {
            let _ = open.publish_record(&noted, Durability::Whole);
        }
        published
    }

    pub(super) fn leave(&self, open: &OpenDirectory<'_>) -> Result<(), Error> {
        let _lock = open.lock();
        open.withdraw_record(&self.record().identity)?;
        open.sync_sentinels(|| None)
    }

    pub(super) fn check_sharing(&self, open: &OpenDirectory<'_>) {
        let problem = open.foreign_process(&self.record()).map(|pid| {
            let path = self.directory.path().display();
            format!("process {pid} of another container or machine also uses {path}; give each its own directory")
        });
        self.set_problem("shared_directory", problem);
    }
}
