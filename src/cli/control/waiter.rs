//! What every wait has: what wakes it, what is shown meanwhile, and when it is over.

use std::time::{Duration, Instant};

use super::error::Error;
use crate::model::goal::{Goal, Standing};
use crate::model::probe::Facts;
use crate::output::progress::{Progress, Step};
use crate::sys::pidfd::PidFd;
use crate::sys::watch::{SLOW, Watch, Woken};

#[derive(Debug)]
pub struct Waiter {
    pub watch: Watch,
    pub progress: Progress,
    pub started: Instant,
    pub timeout: Option<Duration>,
}

impl Waiter {
    pub fn start(timeout: Option<Duration>) -> Result<Self, Error> {
        let watch = Watch::open().map_err(Error::System)?;
        Ok(Self { watch, progress: Progress::default(), started: Instant::now(), timeout })
    }

    pub fn is_over(&self) -> bool {
        self.time_left() == Some(Duration::ZERO)
    }

    /// `None`: as long as it takes.
    fn time_left(&self) -> Option<Duration> {
        self.timeout.map(|timeout| timeout.saturating_sub(self.started.elapsed()))
    }

    pub fn sleep(&self, pidfds: &[&PidFd], next: Option<Duration>) -> Result<Woken, Error> {
        let times = [self.time_left(), self.progress.next(), next].into_iter().flatten();
        let timeout = times.fold(SLOW, Duration::min);
        self.watch.wait(pidfds, timeout).map_err(Error::System)
    }

    pub fn show(&mut self, goal: Goal, facts: &[Facts], notes: Vec<String>) {
        let done = facts.iter().filter(|facts| goal.standing(facts) == Standing::Reached).count();
        // Without a process there is only the reason to show.
        let reason = notes.first().filter(|_| facts.is_empty()).cloned();
        self.progress.show(&Step {
            done,
            total: facts.len(),
            message: reason.unwrap_or_else(|| goal.progress(facts)),
            notes,
            timeout: self.timeout.map(|timeout| timeout.as_secs_f64()),
            begun: self.started.elapsed().as_secs_f64(),
        });
    }
}
