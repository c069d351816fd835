//! What the thread that hears signals does: beside them it watches who reads the outputs, Ruby's heart, and hooks that take
//! long. It sleeps until one of these is due, and never waits for a disk or for Ruby.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lifecycle::{Inner, Lifecycle};
use super::ruby_listener::{Listener, Stuck};
use crate::model::stall::{self, Act, Watch};
use crate::store::files::Durability;
use crate::sys::outputs::{self, Output};
use crate::sys::signals::disposition;
use crate::sys::signals::observer::{self, Observer};

impl Lifecycle {
    /// Begins to hear of TERM, INT and TSTP the moment they arrive, on a thread of its own. Call it once Sidekiq has
    /// set its traps.
    ///
    /// # Errors
    /// What the system says.
    pub fn observe(self: &Arc<Self>) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        disposition::unblock()?;
        let mut observer = Observer::arm()?;
        let mut watch = Watch::new(self.known(|inner| inner.limit));
        let lifecycle = Arc::clone(self);
        let run = move || {
            let mut pipes = Vec::new();
            while let Ok(signal) = observer.wait(&pipes, lifecycle.due(&watch)) {
                let mut look = || {
                    if let Some(signal) = signal {
                        lifecycle.heard(signal);
                    }
                    if signal.is_some() || !pipes.is_empty() {
                        lifecycle.mute();
                        pipes = Output::all()
                            .into_iter()
                            .filter(|output| output.is_pipe() && !output.is_unread())
                            .collect();
                    }
                    lifecycle.look_at_heart(&mut watch);
                    lifecycle.look_at_hooks();
                };
                // Whatever goes wrong, the next signal is heard as well.
                let _ = catch_unwind(AssertUnwindSafe(&mut look));
            }
        };
        disposition::spawn("lifecycle", run).map(drop)
    }

    /// Puts `/dev/null` in the place of an output that nobody reads any more: a reader may hear of the same signal, and end
    /// at any time from then on. Sidekiq is about to log that it stops, and where that raises its shutdown has ended before it
    /// has put anything back.
    pub fn mute(&self) {
        if !self.is_ours() {
            return;
        }
        for output in Output::all().iter().filter(|output| output.is_unread()) {
            let name = output.name();
            let done = match output.silence() {
                Ok(()) => "what this process has written there since is lost".to_owned(),
                Err(error) => format!("what this process writes there fails ({error})"),
            };
            self.set_problem(output.code(), Some(format!("whoever read {name} has ended first: {done}")));
            self.publish(Durability::Whole);
        }
    }

    /// For a thread of Ruby's, without Ruby's lock: waits until there may be something to report, or until it is
    /// [called](Listener::call).
    pub fn listen(&self) {
        if self.is_ours() {
            self.listener.listen();
        }
    }

    /// Who waits there.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// A job is in hand; its id and class.
    pub fn takes(&self, jid: String, class: String) {
        if self.is_ours() {
            self.known(|inner| inner.jobs.insert(jid, class));
        }
    }

    /// A job is in hand no more.
    pub fn gives(&self, jid: &str) {
        if self.is_ours() {
            self.known(|inner| inner.jobs.remove(jid));
        }
    }

    /// Hooks of the application begin that are called so. The first `free` seconds run beside the jobs.
    pub fn hooks_begin(&self, name: String, free: f64) {
        if self.is_ours() {
            self.known(|Inner { hooks, .. }| hooks.begin(name, free, Instant::now()));
            observer::wake();
        }
    }

    /// They have ended.
    pub fn hooks_end(&self) {
        if self.is_ours() {
            self.known(|Inner { hooks, .. }| hooks.end(Instant::now()));
            self.record_hooks();
        }
    }

    /// Ruby runs. Says how long its heart was silent, if that was said to be too long.
    pub fn runs(&self) -> Option<String> {
        let Stuck { since, jobs } = self.known(|inner| inner.stuck.take())?;
        self.set_problem("stalled", None);
        self.publish(Durability::Whole);
        Some(stall::over(since.elapsed(), &jobs))
    }

    /// Ruby's heart has beaten.
    pub(super) fn heart_beats(&self) {
        let is_awaited = self.known(|inner| {
            inner.record.beats();
            inner.beat.replace(Instant::now()).is_none() | std::mem::take(&mut inner.is_awaited)
        });
        if is_awaited {
            observer::wake();
        }
    }

    /// What the hooks have taken until now, for the record.
    pub(super) fn record_hooks(&self) {
        let now = Instant::now();
        let problem = self.known(|Inner { record, hooks, .. }| {
            record.hooks = hooks.known(now, record.exit_status.is_some());
            hooks.problem(now)
        });
        self.set_problem("hooks", problem);
    }

    pub(super) fn due(&self, watch: &Watch) -> Option<Duration> {
        let due = self.known(|inner| inner.hooks.due()).into_iter().chain(watch.due()).min();
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn look_at_heart(&self, watch: &mut Watch) {
        let now = Instant::now();
        let beat = self.known(|inner| inner.beat);
        match watch.look(now, beat, self.listener.answer()) {
            Act::Wait => {}
            Act::Ask => self.listener.ask(),
            Act::Tell => self.tell_of_silence(now, beat.unwrap_or(now)),
        }
    }

    /// Ruby cannot say it itself.
    pub(super) fn tell_of_silence(&self, now: Instant, beat: Instant) {
        let problem = self.known(|inner| {
            inner.is_awaited = true;
            inner.stuck = Some(Stuck { since: beat, jobs: stall::in_hand(&inner.jobs) });
            stall::stuck(now.saturating_duration_since(beat), &inner.jobs)
        });
        outputs::complain(&format!("sidekiq_lifecycle: {problem}"));
        self.set_problem("stalled", Some(problem));
        self.publish(Durability::Whole);
        self.tell_manager(false);
    }

    /// They have been running for long: the record knows before somebody kills the process, the service manager is asked
    /// for more time, and Ruby logs it.
    pub(super) fn look_at_hooks(&self) {
        if self.known(|Inner { hooks, .. }| hooks.look(Instant::now())) {
            self.record_hooks();
            self.tell_manager(false);
            self.publish(Durability::Whole);
            self.listener.call();
        }
    }
}
