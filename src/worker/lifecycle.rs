//! The lifecycle of the calling process, as the Ruby binding drives it.
//!
//! Every failure here becomes a *problem* in the process's own record. No method reports an error, because no failure
//! of this gem may become a failure of the application's Sidekiq. Ruby logs each problem once.
//!
//! A thread of its own writes the directory (`writer`). Sidekiq's threads wait for it briefly, and not at all once it
//! is late, so a hanging disk never delays Sidekiq's shutdown. The thread that receives signals never waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

use crate::model::hook_time::Hooks;
use crate::model::job::Job;
use crate::model::killed_job::KilledJob;
use crate::model::probe::Presence;
use crate::model::sd_notify::Sent;
use crate::model::stall;
use crate::model::state::{Event, Progress, State};
use crate::model::text::masked;
use crate::store::directory::Directory;
use crate::store::files::Durability;
use crate::store::kept_descriptors::KeptDescriptors;
use crate::store::record::{About, Problem, Record};
use crate::store::recorders::FoundRecorder;
use crate::store::report::Process;
use crate::sys::notify_socket::Socket;
use crate::sys::signals::disposition::OBSERVED;
use crate::sys::signals::observer;

use super::clearing::cleared_hooks;
use super::recorder::Recorder;
use super::ruby_listener::{Listener, Stuck};
use super::writer::{Work, Writer};

/// The longest total time for which the end of the process waits for the writer.
const FAREWELL: Duration = Duration::from_secs(1);

/// One Sidekiq process. In a forked child every method does nothing: a child owns nothing of its parent.
#[derive(Debug)]
pub struct Lifecycle {
    pub(super) owner: i32,
    pub(super) directory: Directory,
    pub(super) inner: Mutex<Inner>,
    pub(super) writer: Writer,
    /// A Ruby thread that waits for something to report.
    pub(super) listener: Listener,
    /// Held by the thread that writes, where there is no writer thread, so that the last write has the latest state.
    /// `inner` is not held during disk writes, so a status never waits for the disk.
    pub(super) writing: Mutex<KeptDescriptors>,
    /// Held while the service manager is notified, for the same reason; `inner` is not.
    pub(super) manager: Mutex<Option<Manager>>,
    /// The jobs in hand, if the application wants them to outlive the process.
    pub(super) recorder: OnceLock<Recorder>,
}

/// The service manager that launched the process, and what it has been sent.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) socket: Socket,
    pub(super) sent: Sent,
    /// Ruby's heartbeat feeds its watchdog.
    pub(super) is_fed: bool,
    /// It accepts notifications from this process.
    pub(super) is_accepted: bool,
    /// Since when Sidekiq's shutdown timeout may be running, and how long hooks had taken by then.
    pub(super) stopping_since: Option<(Instant, f64)>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) progress: Progress,
    /// The application wants to be ready only if a SIGTERM reaches it and leaves it enough time.
    pub(super) requires_path: bool,
    /// Why it is unknown whether a SIGTERM reaches the process.
    pub(super) doubt: Option<String>,
    /// Why it cannot take jobs.
    pub(super) takes_no_job: Option<String>,
    pub(super) record: Record,
    pub(super) problems: BTreeMap<String, String>,
    /// The running jobs, by their ids.
    pub(super) jobs: BTreeMap<String, Job>,
    pub(super) hooks: Hooks,
    /// When the last heartbeat was.
    pub(super) beat: Option<Instant>,
    /// The longest silence before Ruby counts as stalled.
    pub(super) limit: Duration,
    pub(super) stuck: Option<Stuck>,
    /// A stall has been reported; the next heartbeat ends it.
    pub(super) awaits_heartbeat: bool,
    /// It takes no more jobs, and nothing is left to wait for.
    pub(super) is_over: bool,
    /// For how many threads there is to be a flight recorder, if any.
    pub(super) recorded_threads: Option<usize>,
    /// Recorders that processes have left behind, for Ruby to put their jobs back.
    pub(super) left_behind: Vec<FoundRecorder>,
    /// The names of those whose jobs have been put back.
    pub(super) put_back: Vec<String>,
    /// What became of jobs, to be noted in the directory.
    pub(super) outcomes: Vec<KilledJob>,
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        // A forked child has no such thread, and nobody there would release its lock.
        if self.is_ours() {
            self.writer.close();
        }
    }
}

impl Lifecycle {
    /// Starts in state `booting`: removes what dead processes left, and registers.
    #[must_use]
    pub fn begin(directory: Directory, about: About) -> Arc<Self> {
        let ready_file = directory.ready_file().map(|file| file.display().to_string());
        let mut inner = Inner {
            progress: Progress::BOOTING,
            requires_path: false,
            doubt: None,
            takes_no_job: None,
            record: Record::new(about, ready_file),
            problems: BTreeMap::new(),
            jobs: BTreeMap::new(),
            hooks: Hooks::default(),
            beat: None,
            limit: stall::limit(None, 0.0),
            stuck: None,
            awaits_heartbeat: false,
            is_over: false,
            recorded_threads: None,
            left_behind: Vec::new(),
            put_back: Vec::new(),
            outcomes: Vec::new(),
        };
        if let Some(seconds) = cleared_hooks(&directory) {
            inner.remember_hooks([seconds]);
        }
        let lifecycle = Arc::new(Self {
            owner: getpid().as_raw(),
            directory,
            inner: Mutex::new(inner),
            writer: Writer::default(),
            listener: Listener::default(),
            writing: Mutex::default(),
            manager: Mutex::new(None),
            recorder: OnceLock::new(),
        });
        lifecycle.start_writer();
        lifecycle.check_signal_path();
        lifecycle.check_stop_timeout();
        lifecycle.check_http();
        lifecycle.hand_over(Work { sweep: true, publish: Some(Durability::Flushed), ..Work::default() });
        lifecycle.wait();
        lifecycle
    }

    pub(super) fn start_writer(self: &Arc<Self>) {
        let lifecycle = Arc::downgrade(self);
        // The thread's own: nobody else may close the descriptors in it.
        let mut kept = KeptDescriptors::default();
        let write = move |work| {
            if let Some(lifecycle) = lifecycle.upgrade() {
                lifecycle.write(work, &mut kept);
            }
        };
        let problem = self.writer.start(write).err().map(|error| {
            let path = self.directory.path().display();
            format!("cannot start a thread that writes {path} ({error}), so Sidekiq's own threads wait for the disk")
        });
        self.set_problem("writer", problem);
    }

    /// Sets what Ruby has learnt about the process since it started.
    pub fn describe(&self, about: About) {
        if self.is_ours() {
            self.with_inner(|inner| inner.record.about = about);
            self.limit_relay();
            self.check_stop_timeout();
        }
    }

    /// A signal has arrived.
    pub fn arrived(&self, signal: Signal) {
        self.on_signal(signal);
        self.wait();
    }

    pub(super) fn on_signal(&self, signal: Signal) {
        let event = match signal {
            Signal::SIGTSTP => Event::Quieted,
            _ => Event::Stopped,
        };
        self.record_event(event, Some(signal.to_string()));
    }

    /// Every `:startup` hook has run and Sidekiq's threads exist.
    pub fn started(&self) {
        if self.is_ours() {
            // This hook counts as a heartbeat; Sidekiq's own first one is about to come.
            self.record_heartbeat();
            self.check_signal_path();
            self.check_http();
            self.record_companions();
            self.catch_up();
            self.record_event(Event::Started, None);
            self.wait();
        }
    }

    /// Sidekiq's `:quiet` event.
    pub fn quieted(&self) {
        self.catch_up();
        self.record_event(Event::Quieted, Some("quiet was called".to_owned()));
        self.wait();
    }

    /// Sidekiq's `:shutdown` event.
    pub fn stopping(&self) {
        self.catch_up();
        self.record_event(Event::Stopped, Some("stop was called".to_owned()));
        // Ruby may have handled the signal long after its arrival, and its own timeout has only just started.
        if self.is_ours() {
            if let Some(manager) = self.manager.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                manager.stopping_since = None;
            }
            self.notify_manager(false);
        }
        self.wait();
    }

    /// Sets whether ECS protects the task; the next heartbeat writes it.
    pub fn record_task_protection(&self, is_protected: Option<bool>) {
        self.with_inner(|inner| inner.record.ecs_task_protected = is_protected);
    }

    /// A heartbeat, with `busy` running jobs.
    pub fn beat(&self, busy: u32) {
        if !self.is_ours() {
            return;
        }
        self.record_heartbeat();
        self.with_inner(|Inner { record, .. }| record.busy = if record.drained { 0 } else { busy });
        self.check_signal_path();
        self.check_http();
        self.notify_manager(true);
        self.hand_over(Work { strangers: true, publish: Some(Durability::Whole), ..self.beat_recorder() });
        self.wait();
    }

    /// A job has ended while the process drains; `busy` are left.
    pub fn draining(&self, busy: u32) {
        let is_news = |Inner { record, .. }: &mut Inner| {
            let is_news = !record.drained && record.busy != busy;
            if is_news {
                record.busy = busy;
            }
            is_news
        };
        if self.is_ours() && self.with_inner(is_news) {
            self.notify_manager(false);
            self.publish(Durability::Whole);
            self.wait();
        }
    }

    /// Sets why the process cannot take jobs, and why it can never drain, as far as Ruby knows.
    pub fn hindered(&self, takes_no_job: Option<String>, never_drains: Option<String>) {
        let is_news = |inner: &mut Inner| {
            let is_news = inner.takes_no_job != takes_no_job || inner.record.never_drains != never_drains;
            inner.takes_no_job = takes_no_job;
            inner.record.never_drains = never_drains;
            inner.withhold();
            is_news
        };
        if self.is_ours() && self.with_inner(is_news) {
            self.notify_manager(false);
            self.publish(Durability::Whole);
            self.wait();
        }
    }

    /// Of the jobs that it could not finish, Sidekiq interrupted some at its shutdown timeout, and Redis did not take
    /// the `lost` ones back. Each call gives all of them.
    pub fn unfinished(&self, interrupted: Vec<Job>, lost: Vec<Job>) {
        if self.is_ours() {
            self.with_inner(|inner| inner.record.record_unfinished(interrupted, lost));
            self.publish(Durability::Flushed);
            self.wait();
        }
    }

    /// Marks the process as drained: Sidekiq has finished every job it had fetched and fetches no more. Returns
    /// whether that is new.
    pub fn drained(&self) -> bool {
        let is_news = |Inner { record, .. }: &mut Inner| {
            let is_news = !record.drained && matches!(record.state, State::Quiet | State::Stopping);
            if is_news {
                record.mark_drained();
            }
            is_news
        };
        let is_news = self.is_ours() && self.with_inner(is_news);
        if is_news {
            self.notify_manager(false);
            self.publish(Durability::Flushed);
            self.wait();
        }
        is_news
    }

    /// Stops the process once it has drained, however long that takes. `why` is what requests it.
    pub fn stop_when_drained(&self, why: &str) {
        if self.is_ours() {
            self.with_inner(|inner| inner.request_stop(why));
            self.publish(Durability::Flushed);
            self.stop_if_over();
            self.wait();
        }
    }

    /// The process takes no more jobs, and no thread has one: it has drained, or can never.
    pub fn over(&self) {
        if self.is_ours() {
            self.with_inner(|inner| inner.is_over = true);
            self.stop_if_over();
        }
    }

    /// Stops the process as an operator would, so that everything that listens to the signal takes part.
    pub(super) fn stop_if_over(&self) {
        let why = self.with_inner(|Inner { record, is_over, .. }| {
            record.stops_when_drained.clone().filter(|_| *is_over && record.state == State::Quiet)
        });
        if let Some(why) = why {
            self.record_event(Event::Stopped, Some(why));
            let problem = kill(getpid(), Signal::SIGTERM).err().map(|errno| format!("cannot stop: {}", errno.desc()));
            self.set_problem("stop_when_drained", problem);
        }
    }

    /// The process is ending with this status; `why` adds to what made it stop. Without a status only Sidekiq has
    /// ended, inside a program that goes on.
    pub fn ended(&self, status: Option<i32>, why: Option<String>) {
        if !self.is_ours() {
            return;
        }
        let deadline = Instant::now() + FAREWELL;
        self.catch_up();
        let state = self.with_inner(|inner| inner.record.state);
        self.hooks_end();
        let why = self.with_inner(|Inner { record, .. }| {
            record.exit_status = status;
            let stopped_by = record.why.clone().filter(|_| state == State::Stopping);
            match (stopped_by, why) {
                (Some(stopped_by), Some(why)) if !why.contains(&stopped_by) => Some(format!("{stopped_by}, {why}")),
                (stopped_by, why) => why.or(stopped_by),
            }
        });
        self.record_hooks();
        self.record_event(Event::Ended, why);
        self.close_recorder();
        self.writer.wait(deadline);
    }

    /// A signal's handler had been replaced: reinstalls the observer's and counts it.
    pub fn rearm(&self, signal: Signal) {
        if !self.is_ours() {
            return;
        }
        let problem =
            observer::reinstall(signal).err().map(|errno| format!("{signal} cannot be observed: {}", errno.desc()));
        self.set_problem(&format!("observe_{}", signal.as_str().to_lowercase()), problem);
        self.with_inner(|inner| *inner.record.rearmed.entry(signal.to_string()).or_default() += 1);
        self.publish(Durability::Whole);
        self.wait();
    }

    /// Stores what is wrong under a code, an identifier for machines; `None` clears it.
    pub fn set_problem(&self, code: &str, message: Option<String>) {
        self.with_inner(|Inner { record, problems, .. }| {
            match message {
                Some(message) => drop(problems.insert(code.to_owned(), masked(&message))),
                None => drop(problems.remove(code)),
            }
            let problem =
                |(code, message): (&String, &String)| Problem { code: code.clone(), message: message.clone() };
            record.problems = problems.iter().map(problem).collect();
        });
    }

    /// The current record.
    #[must_use]
    pub fn record(&self) -> Record {
        self.with_inner(|Inner { record, jobs, .. }| {
            let mut record = record.clone();
            if !record.drained {
                record.jobs.running = jobs.values().cloned().collect();
            }
            record
        })
    }

    /// The record and the results of the probes, as JSON (see [`Process`]).
    ///
    /// # Errors
    /// The record cannot be written as JSON.
    pub fn report(&self) -> serde_json::Result<String> {
        self.check_lateness();
        let record = self.record();
        let facts = record.facts_with(Presence::Here);
        serde_json::to_string(&Process::new(&Ok(record), &facts))
    }

    /// Removes the record: the application has chosen another directory.
    pub fn retire(&self) {
        if self.is_ours() {
            self.hand_over(Work { retire: true, ..Work::default() });
            self.wait();
            self.writer.close();
        }
    }

    /// Whether the calling process is the one that this value describes, and not a forked child.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        getpid().as_raw() == self.owner
    }

    /// Processes the signals that have arrived. Sidekiq's hooks, and even its end, may run before the observer's
    /// thread has processed the signal. Stop signals come first, because Sidekiq makes a `:quiet` and a `:shutdown`
    /// of TERM.
    pub(super) fn catch_up(&self) {
        OBSERVED.into_iter().filter(|signal| observer::has_arrived(*signal)).for_each(|signal| self.arrived(signal));
    }

    pub(super) fn record_event(&self, event: Event, why: Option<String>) {
        if !self.is_ours() {
            return;
        }
        let moved = self.with_inner(|Inner { progress, record, .. }| {
            let after = progress.after(event);
            let moved = after.state != progress.state;
            *progress = after;
            if moved {
                // Started and quiet at once: TSTP came during the boot.
                let early = || (after.state == State::Quiet).then(|| "SIGTSTP while booting".to_owned());
                record.enter(after.state, why.or_else(early));
            }
            moved.then_some(after.state)
        });
        let Some(state) = moved else { return };
        // First of all, so that the ready file is gone before anything else happens.
        let withdraw = state > State::Running;
        self.hand_over(Work { withdraw, publish: Some(Durability::Flushed), ..Work::default() });
        self.notify_manager(false);
    }

    /// The only access to the state. Nothing inside `change` may wait, or call this again.
    pub(super) fn with_inner<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    /// Records that the process is to stop once it has drained; the first request is the one that counts.
    pub(super) fn request_stop(&mut self, why: &str) {
        self.record.stops_when_drained.get_or_insert_with(|| why.to_owned());
    }

    /// Ready only if it can take jobs and, if the application requires it, only if a SIGTERM is safe.
    pub(super) fn withhold(&mut self) {
        let time = self.record.time.as_ref().and_then(|time| time.doubt().map(str::to_owned));
        let doubt = self.doubt.clone().or(time);
        self.record.withheld = self.takes_no_job.clone().or_else(|| doubt.filter(|_| self.requires_path));
    }

    /// Remembers how long the hooks took at earlier stops in this directory.
    pub(super) fn remember_hooks(&mut self, seconds: impl IntoIterator<Item = f64>) {
        seconds.into_iter().for_each(|seconds| self.hooks.remember(seconds));
        self.record.hooks = self.hooks.to_record(Instant::now(), false);
    }
}
