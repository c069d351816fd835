//! The work of the thread that receives signals: it also watches the readers of the outputs, the heartbeat, and slow
//! hooks. It sleeps until one of these is due, and never waits for a disk or for Ruby.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lifecycle::{Inner, Lifecycle};
use super::own_path;
use super::ruby_listener::{Listener, Stuck};
use crate::model::job::Job;
use crate::model::stall::{self, Act, Watch};
use crate::model::stop_timeout::Need;
use crate::store::files::Durability;
use crate::store::record::now;
use crate::sys::outputs::{self, Output};
use crate::sys::signals::disposition;
use crate::sys::signals::observer::{self, Observer};

impl Lifecycle {
    /// Starts to observe TERM, INT and TSTP the moment they arrive, on a thread of its own. Call it once Sidekiq has
    /// set its traps.
    ///
    /// # Errors
    /// The system's error.
    pub fn observe(self: &Arc<Self>) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        disposition::unblock()?;
        let mut observer = Observer::arm()?;
        let mut watch = Watch::new(self.with_inner(|inner| inner.limit));
        let lifecycle = Arc::clone(self);
        let run = move || {
            let mut pipes = Vec::new();
            while let Ok(signal) = observer.wait(&pipes, lifecycle.due(&watch)) {
                let mut work = || {
                    if let Some(signal) = signal {
                        lifecycle.on_signal(signal);
                    }
                    if signal.is_some() || !pipes.is_empty() {
                        lifecycle.mute();
                        pipes = Output::all()
                            .into_iter()
                            .filter(|output| output.is_pipe() && !output.is_unread())
                            .collect();
                    }
                    lifecycle.check_heartbeat(&mut watch);
                    lifecycle.check_hooks();
                };
                // Whatever goes wrong, the next signal is processed as well.
                let _ = catch_unwind(AssertUnwindSafe(&mut work));
            }
        };
        disposition::spawn("lifecycle", run).map(drop)
    }

    /// Replaces an output that nobody reads any more with `/dev/null`: its reader may get the same signal, and exit
    /// at any time from then on. Sidekiq is about to log that it stops; if that raised an exception, it would exit
    /// before it has pushed back any job.
    pub fn mute(&self) {
        if !self.is_ours() {
            return;
        }
        for output in Output::all().iter().filter(|output| output.is_unread()) {
            let name = output.name();
            let done = match output.silence() {
                Ok(()) => "anything this process has written there since is lost".to_owned(),
                Err(error) => format!("any further write there fails ({error})"),
            };
            self.set_problem(output.code(), Some(format!("the reader of {name} exited before this process: {done}")));
            self.publish(Durability::Whole);
        }
    }

    /// For a Ruby thread, without the GVL: waits until there may be something to report, or until it is
    /// [called](Listener::call).
    pub fn listen(&self) {
        if self.is_ours() {
            self.listener.listen();
        }
    }

    /// The thread that waits there.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// A job starts.
    pub fn takes(&self, jid: String, class: &str, queue: &str) {
        if self.is_ours() {
            let job = Job::started(class, &jid, queue, now());
            self.with_inner(|inner| inner.jobs.insert(jid, job));
        }
    }

    /// How many seconds a job has been running; `None`: it is not.
    #[must_use]
    pub fn running_for(&self, jid: &str) -> Option<f64> {
        let started_at = self.with_inner(|inner| inner.jobs.get(jid)?.started_at)?;
        Some(now().duration_since(started_at).as_secs_f64().max(0.0))
    }

    /// A job has ended.
    pub fn gives(&self, jid: &str) {
        if self.is_ours() {
            self.with_inner(|inner| inner.jobs.remove(jid));
        }
    }

    /// Hooks of the application with this name start. Their first `free` seconds run while jobs do.
    pub fn hooks_begin(&self, name: String, free: f64) {
        if self.is_ours() {
            self.with_inner(|Inner { hooks, .. }| hooks.start(name, free, Instant::now()));
            self.limit_relay();
            observer::wake();
        }
    }

    /// The hooks have ended.
    pub fn hooks_end(&self) {
        if self.is_ours() {
            self.with_inner(|Inner { hooks, .. }| hooks.end(Instant::now()));
            self.record_hooks();
        }
    }

    /// Ruby runs. Returns how long there was no heartbeat, if a stall was reported.
    pub fn runs(&self) -> Option<String> {
        let Stuck { since, jobs } = self.with_inner(|inner| inner.stuck.take())?;
        self.set_problem("stalled", None);
        self.publish(Durability::Whole);
        Some(stall::over(since.elapsed(), &jobs))
    }

    /// Records a heartbeat.
    pub(super) fn record_heartbeat(&self) {
        let awaits_heartbeat = self.with_inner(|inner| {
            inner.record.record_heartbeat();
            inner.beat.replace(Instant::now()).is_none() | std::mem::take(&mut inner.awaits_heartbeat)
        });
        if awaits_heartbeat {
            observer::wake();
        }
    }

    /// Records how long the hooks have taken so far, and grants them that time.
    pub(super) fn record_hooks(&self) {
        let now = Instant::now();
        let problem = self.with_inner(|Inner { record, hooks, .. }| {
            record.hooks = hooks.to_record(now, record.exit_status.is_some());
            hooks.problem(now)
        });
        self.set_problem("hooks", problem);
        self.limit_relay();
    }

    /// Tells the relay how long the stop may take, by what is known of the hooks.
    pub(super) fn limit_relay(&self) {
        own_path::limit(
            self.with_inner(|Inner { record, hooks, .. }| Need {
                timeout: record.about.timeout,
                hooks: hooks.to_grant(),
            }),
        );
    }

    pub(super) fn due(&self, watch: &Watch) -> Option<Duration> {
        let due = self.with_inner(|inner| inner.hooks.due()).into_iter().chain(watch.due()).min();
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn check_heartbeat(&self, watch: &mut Watch) {
        let now = Instant::now();
        let beat = self.with_inner(|inner| inner.beat);
        match watch.check(now, beat, self.listener.answer()) {
            Act::Wait => {}
            Act::Ask => self.listener.ask(),
            Act::Report => self.report_stall(now, beat.unwrap_or(now)),
        }
    }

    /// Reports a stall, because Ruby cannot.
    pub(super) fn report_stall(&self, now: Instant, beat: Instant) {
        let problem = self.with_inner(|inner| {
            inner.awaits_heartbeat = true;
            inner.stuck = Some(Stuck { since: beat, jobs: stall::in_hand(&inner.jobs) });
            stall::stuck(now.saturating_duration_since(beat), &inner.jobs)
        });
        outputs::warn(&format!("sidekiq_lifecycle: {problem}"));
        self.set_problem("stalled", Some(problem));
        self.publish(Durability::Whole);
        self.notify_manager(false);
    }

    /// Reports hooks that have been running for long: the record has it before the process may be killed, the service
    /// manager and the relay are asked for more time, and Ruby logs it.
    pub(super) fn check_hooks(&self) {
        if self.with_inner(|Inner { hooks, .. }| hooks.check(Instant::now())) {
            self.record_hooks();
            self.notify_manager(false);
            self.publish(Durability::Whole);
            self.listener.call();
        }
    }
}
