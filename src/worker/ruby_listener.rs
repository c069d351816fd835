//! A Ruby thread that waits for something to report, and shows whether Ruby's threads run.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::stall::Answer;

/// A Ruby thread that waits, without the GVL, until there is something to report. It also shows whether Ruby's
/// threads get to run: if it is asked and does not return, it cannot get the GVL.
#[derive(Debug, Default)]
pub struct Listener {
    state: Mutex<Ear>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Ear {
    is_listening: bool,
    is_wanted: bool,
    /// How many questions were asked, and how many of those it has answered by coming back.
    asked: u64,
    answered: u64,
    /// The thread was listening when the last question was asked.
    is_heard: bool,
}

impl Listener {
    fn state(&self) -> MutexGuard<'_, Ear> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listen(&self) {
        let mut ear = self.state();
        ear.answered = ear.asked;
        ear.is_listening = true;
        while !ear.is_wanted {
            ear = self.news.wait(ear).unwrap_or_else(PoisonError::into_inner);
        }
        ear.is_wanted = false;
        ear.is_listening = false;
    }

    /// Makes [`Lifecycle::listen`](super::lifecycle::Lifecycle::listen) return.
    pub fn call(&self) {
        self.state().is_wanted = true;
        self.news.notify_all();
    }

    pub(super) fn ask(&self) {
        let mut ear = self.state();
        ear.asked += 1;
        ear.is_heard = ear.is_listening;
        drop(ear);
        self.call();
    }

    pub(super) fn answer(&self) -> Answer {
        match &*self.state() {
            Ear { is_heard: false, .. } => Answer::NotHeard,
            Ear { asked, answered, .. } if asked == answered => Answer::Given,
            Ear { .. } => Answer::None,
        }
    }
}

/// Since when Ruby has run none of its threads, and which jobs were running then.
#[derive(Debug)]
pub struct Stuck {
    pub(super) since: Instant,
    pub(super) jobs: String,
}
