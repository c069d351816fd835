//! A Ruby thread that waits for something to report, and shows whether Ruby's threads run.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::stall::Answer;

/// A Ruby thread that waits, without the GVL, until there is something to report. It also shows whether Ruby's
/// threads get to run: if it is asked and does not return, it cannot get the GVL.
#[derive(Debug, Default)]
pub struct Listener {
    state: Mutex<ListenerState>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct ListenerState {
    is_listening: bool,
    is_called: bool,
    /// How many questions were asked, and how many of those it has answered by coming back.
    asked: u64,
    answered: u64,
    /// The thread was listening when the last question was asked.
    was_listening: bool,
}

impl Listener {
    fn state(&self) -> MutexGuard<'_, ListenerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listen(&self) {
        let mut state = self.state();
        state.answered = state.asked;
        state.is_listening = true;
        while !state.is_called {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_called = false;
        state.is_listening = false;
    }

    /// Makes [`Lifecycle::listen`](super::lifecycle::Lifecycle::listen) return.
    pub fn call(&self) {
        self.state().is_called = true;
        self.news.notify_all();
    }

    pub(super) fn ask(&self) {
        let mut state = self.state();
        state.asked += 1;
        state.was_listening = state.is_listening;
        drop(state);
        self.call();
    }

    pub(super) fn answer(&self) -> Answer {
        match &*self.state() {
            ListenerState { was_listening: false, .. } => Answer::NotListening,
            ListenerState { asked, answered, .. } if asked == answered => Answer::Given,
            ListenerState { .. } => Answer::None,
        }
    }
}

/// Since when Ruby has run none of its threads, and which jobs were running then.
#[derive(Debug)]
pub struct Stuck {
    pub(super) since: Instant,
    pub(super) jobs: String,
}
