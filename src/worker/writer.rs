//! The thread that owns the lifecycle directory of the process. Sidekiq's threads hand work to it and wait a moment
//! until it is done; a hanging disk delays nothing else.
//!
//! There is no queue: work handed over during a write is merged, and every write has the newest record.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::files::Durability;
use crate::sys::descriptors;
use crate::sys::signals::disposition;

/// The work to do in the directory, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Remove the ready file.
    pub withdraw: bool,
    /// Clear what ended processes left.
    pub sweep: bool,
    /// Check whether another container uses the directory.
    pub strangers: bool,
    /// Write the record, and sync the sentinels.
    pub publish: Option<Durability>,
    /// Remove the record: another directory is used from now on.
    pub retire: bool,
    /// Create the flight recorder, for so many threads.
    pub recorder: Option<usize>,
    /// Remove the recorders whose jobs have been put back.
    pub forget: bool,
    /// Note what became of jobs that killed processes had in hand.
    pub outcomes: bool,
    /// Look for recorders that processes left behind.
    pub left_behind: bool,
    /// Remove the own recorder, if nothing is in hand.
    pub close_recorder: bool,
}

impl Work {
    /// Merges both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            withdraw: self.withdraw || other.withdraw,
            sweep: self.sweep || other.sweep,
            strangers: self.strangers || other.strangers,
            publish: self.publish.max(other.publish),
            retire: self.retire || other.retire,
            recorder: self.recorder.or(other.recorder),
            forget: self.forget || other.forget,
            outcomes: self.outcomes || other.outcomes,
            left_behind: self.left_behind || other.left_behind,
            close_recorder: self.close_recorder || other.close_recorder,
        }
    }
}

/// What has been handed over and is not done yet. Work belongs to the round that will complete it.
#[derive(Debug, Default)]
struct Backlog {
    waiting: Work,
    /// Since when work has been waiting.
    waiting_since: Option<Instant>,
    in_hand_since: Option<Instant>,
    /// How many rounds have started, and how many are done.
    started: u64,
    done: u64,
}

impl Backlog {
    fn add(&mut self, work: Work, now: Instant) {
        self.waiting = self.waiting.and(work);
        self.waiting_since.get_or_insert(now);
    }

    /// The round after which all work handed over so far is done.
    fn last(&self) -> u64 {
        self.started + u64::from(self.waiting_since.is_some())
    }

    fn start_round(&mut self) -> Option<Work> {
        self.in_hand_since = Some(self.waiting_since.take()?);
        self.started += 1;
        Some(std::mem::take(&mut self.waiting))
    }

    fn finish(&mut self) {
        self.in_hand_since = None;
        self.done = self.started;
    }

    /// The age of the oldest work that is not done.
    fn behind(&self, now: Instant) -> Duration {
        let oldest = self.in_hand_since.or(self.waiting_since);
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[derive(Debug, Default)]
struct State {
    backlog: Backlog,
    has_thread: bool,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    handed_over: Condvar,
    done: Condvar,
    has_own_descriptors: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None`: there will be no more.
    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if let Some(work) = state.backlog.start_round() {
                return Some(work);
            }
            if state.is_closed {
                return None;
            }
            state = self.handed_over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self) {
        self.state().backlog.finish();
        self.done.notify_all();
    }
}

/// The other threads' handle of the writer thread.
#[derive(Debug, Default)]
pub struct Writer(Arc<Shared>);

impl Writer {
    /// Starts the thread, which calls `write` with the work handed over. It receives no signals. Where the system
    /// allows it, it has a descriptor table of its own, so that it does not matter what the application does with its
    /// descriptors, or whether it runs out of them.
    ///
    /// # Errors
    /// No further thread can be started.
    pub fn start(&self, mut write: impl FnMut(Work) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        let run = move || {
            shared.has_own_descriptors.store(descriptors::unshare().is_ok(), SeqCst);
            while let Some(work) = shared.next() {
                // Whatever goes wrong, the next work is done as well.
                let _ = catch_unwind(AssertUnwindSafe(|| write(work)));
                shared.finish();
            }
        };
        disposition::spawn(descriptors::THREAD, run)?;
        self.0.state().has_thread = true;
        Ok(())
    }

    /// Hands work over, without waiting. `false`: there is no thread to do it.
    #[must_use]
    pub fn hand_over(&self, work: Work) -> bool {
        let mut state = self.0.state();
        if state.has_thread && !state.is_closed {
            state.backlog.add(work, Instant::now());
            self.0.handed_over.notify_one();
        }
        state.has_thread
    }

    /// Waits until all work handed over so far is done, or until `deadline`.
    pub fn wait(&self, deadline: Instant) {
        let mut state = self.0.state();
        let last = state.backlog.last();
        while state.backlog.done < last {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            state = self.0.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The age of the oldest work that is not done.
    #[must_use]
    pub fn behind(&self) -> Duration {
        self.0.state().backlog.behind(Instant::now())
    }

    /// Whether nothing waits beside the work being done.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.0.state().backlog.waiting_since.is_none()
    }

    /// For `write`: whether the ready file is to be removed at once. The caller must do it then.
    #[must_use]
    pub fn take_withdrawal(&self) -> bool {
        std::mem::take(&mut self.0.state().backlog.waiting.withdraw)
    }

    /// Whether only this thread uses its descriptors.
    #[must_use]
    pub fn has_own_descriptors(&self) -> bool {
        self.0.has_own_descriptors.load(SeqCst)
    }

    /// Ends the thread once it has done all work handed over.
    pub fn close(&self) {
        self.0.state().is_closed = true;
        self.0.handed_over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const WITHDRAW: Work = Work { withdraw: true, ..NONE };
    const BEAT: Work = Work { strangers: true, publish: Some(Durability::Whole), ..NONE };
    const CHANGE: Work = Work { publish: Some(Durability::Flushed), ..NONE };
    const NONE: Work = Work {
        withdraw: false,
        sweep: false,
        strangers: false,
        publish: None,
        retire: false,
        recorder: None,
        forget: false,
        outcomes: false,
        left_behind: false,
        close_recorder: false,
    };

    #[test]
    fn work_adds_up() {
        let withdrawn = Work { withdraw: true, ..CHANGE };
        for (one, other, both) in [
            (NONE, NONE, NONE),
            (NONE, BEAT, BEAT),
            (WITHDRAW, CHANGE, withdrawn),
            (BEAT, CHANGE, Work { strangers: true, ..CHANGE }),
            (CHANGE, CHANGE, CHANGE),
            (Work { retire: true, ..NONE }, NONE, Work { retire: true, ..NONE }),
            (Work { recorder: Some(5), ..NONE }, BEAT, Work { recorder: Some(5), ..BEAT }),
            (
                Work { forget: true, ..NONE },
                Work { outcomes: true, left_behind: true, ..NONE },
                Work { forget: true, outcomes: true, left_behind: true, ..NONE },
            ),
            (Work { close_recorder: true, ..NONE }, NONE, Work { close_recorder: true, ..NONE }),
            (Work { sweep: true, ..NONE }, BEAT, Work { sweep: true, ..BEAT }),
        ] {
            assert_eq!(one.and(other), both);
            assert_eq!(other.and(one), both);
        }
    }

    #[test]
    fn a_backlog_never_grows_and_knows_its_age() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backlog = Backlog::default();
        assert_eq!((backlog.start_round(), backlog.last(), backlog.behind(at(9))), (None, 0, Duration::ZERO));
        backlog.add(BEAT, at(0));
        backlog.add(WITHDRAW, at(1));
        assert_eq!((backlog.last(), backlog.behind(at(2))), (1, Duration::from_secs(2)));
        assert_eq!(backlog.start_round(), Some(BEAT.and(WITHDRAW)));
        assert_eq!((backlog.last(), backlog.behind(at(3))), (1, Duration::from_secs(3)));
        for seconds in 4..100 {
            backlog.add(CHANGE, at(seconds));
        }
        assert_eq!((backlog.last(), backlog.done, backlog.behind(at(100))), (2, 0, Duration::from_secs(100)));
        backlog.finish();
        assert_eq!((backlog.last(), backlog.done, backlog.behind(at(100))), (2, 1, Duration::from_secs(96)));
        assert_eq!(backlog.start_round(), Some(CHANGE));
        backlog.finish();
        assert_eq!((backlog.start_round(), backlog.done, backlog.behind(at(100))), (None, 2, Duration::ZERO));
    }

    #[test]
    fn work_handed_over_meanwhile_is_done_in_one_round() {
        let writer = Writer::default();
        let (begins, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        writer
            .start(move |work| {
                begins.send(work).unwrap();
                may_go.recv().unwrap();
            })
            .unwrap();
        assert!(writer.hand_over(BEAT));
        assert_eq!(has_begun.recv().unwrap(), BEAT);
        writer.wait(Instant::now() + Duration::from_millis(1));
        assert!(writer.behind() > Duration::ZERO && writer.is_last(), "no caller is delayed");
        for _ in 0..1000 {
            assert!(writer.hand_over(BEAT) && writer.hand_over(Work { withdraw: true, ..CHANGE }));
        }
        assert!(writer.take_withdrawal() && !writer.take_withdrawal());
        writer.close();
        go.send(()).unwrap();
        assert_eq!(has_begun.recv().unwrap(), BEAT.and(CHANGE));
        go.send(()).unwrap();
        assert!(has_begun.recv().is_err(), "it ends");
    }

    #[test]
    fn a_panic_ends_nothing() {
        let writer = Writer::default();
        let (done, is_done) = mpsc::channel();
        writer
            .start(move |work| {
                assert!(!work.retire, "a test");
                done.send(work).unwrap();
            })
            .unwrap();
        assert!(writer.hand_over(Work { retire: true, ..NONE }));
        writer.wait(Instant::now() + Duration::from_secs(60));
        assert!(writer.hand_over(CHANGE));
        assert_eq!(is_done.recv().unwrap(), CHANGE);
    }

    #[test]
    fn without_a_thread_no_work_is_accepted() {
        let writer = Writer::default();
        assert!(!writer.hand_over(CHANGE));
        writer.wait(Instant::now() + Duration::from_secs(60));
        assert_eq!(writer.behind(), Duration::ZERO);
    }
}
