//! What the process checks about itself: its signal path, its stop timeout, and which programs end together with it.

use std::sync::PoisonError;

use crate::model::stop_timeout::{self, Fit, Need};
use crate::store::record::Record;
use crate::sys::platform;
use crate::sys::procfs::Snapshot;

use super::http;
use super::lifecycle::{Inner, Lifecycle};
use super::own_path;

impl Lifecycle {
    /// Sets whether the process is ready only if a SIGTERM reaches it and Sidekiq has enough time to stop.
    pub fn require_signal_path(&self, required: bool) {
        if self.is_ours() {
            self.with_inner(|inner| inner.requires_path = required);
            self.check_signal_path();
            self.with_inner(Inner::withhold);
        }
    }

    /// Checks the signal path again: a shell may have become another program or ended, or the relay may have been
    /// killed.
    pub(super) fn check_signal_path(&self) {
        let (is_embedded, needed) =
            self.with_inner(|Inner { record, .. }| (record.about.embedded, need(record).seconds()));
        if is_embedded {
            return;
        }
        let Some((path, problem)) = own_path::own(needed) else { return };
        self.with_inner(|inner| {
            inner.doubt = problem.clone().filter(|_| path.term.is_bad()).or_else(|| path.doubt.clone());
            inner.record.signal_path = Some(path);
            inner.withhold();
        });
        self.set_problem("signal_path", problem);
    }

    /// Records where HTTP requests are answered. If they should be, and another process has the address, the endpoint tries
    /// again.
    pub(super) fn check_http(&self) {
        let (address, problem) = http::check();
        self.with_inner(|inner| inner.record.http = address.map(|address| address.to_string()));
        self.set_problem("http", problem);
    }

    /// Records which programs end together with this one, for `fleet stop`, which cannot inspect them remotely.
    pub(super) fn record_companions(&self) {
        if !self.with_inner(|inner| inner.record.about.embedded) {
            let company = Snapshot::companions(self.owner, &[]);
            self.with_inner(|inner| inner.record.company = company);
        }
    }

    /// Checks the stop timeout, as far as the environment and the settings tell it. Querying systemd would take too
    /// long for a hook.
    pub(super) fn check_stop_timeout(&self) {
        let record = self.record();
        if record.about.embedded || record.about.timeout.is_none() {
            return;
        }
        // A process that systemd listens to asks for the time it needs.
        let manager =
            self.manager.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|manager| manager.is_accepted);
        let is_extended = manager == Some(true);
        let (fit, wrong) = match platform::stop_timeout(record.about.stop_timeout) {
            Ok(stop) => (stop_timeout::fit(need(&record), stop.as_ref()), None),
            Err(wrong) => (Fit::Unknown(wrong.to_string()), Some(wrong.to_string())),
        };
        let fit = match fit {
            Fit::Unknown(_) if is_extended => {
                Fit::Fits("the worker asks systemd for the time it needs when it stops".to_owned())
            }
            fit => fit,
        };
        self.set_problem("stop_timeout", wrong.or_else(|| fit.problem().map(str::to_owned)));
        self.with_inner(|inner| {
            inner.record.time = Some(fit);
            inner.withhold();
        });
    }
}

fn need(record: &Record) -> Need {
    Need { timeout: record.about.timeout, hooks: record.slow_hooks() }
}
