//! A thread of Ruby's that waits for something to report, and shows whether Ruby's threads run.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::stall::Answer;

/// A thread of Ruby's that waits, without Ruby's lock, until there is something to report. It also shows whether Ruby's
/// threads get to run: one that is asked to and does not come back has no lock.
#[derive(Debug, Default)]
pub struct Listener {
    state: Mutex<Ear>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Ear {
    is_listening: bool,
    is_wanted: bool,
    /// Questions, and how many of them were there when it last came here.
    asked: u64,
    answered: u64,
    /// Somebody listened when the last one was asked.
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

    /// Makes it come back.
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

/// Since when Ruby runs none of its threads, and what was in hand then.
#[derive(Debug)]
pub struct Stuck {
    pub(super) since: Instant,
    pub(super) jobs: String,
}
