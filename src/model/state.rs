//! The states of a Sidekiq process, and the only transitions between them.
//!
//! States move down the list and never up: Sidekiq's heartbeat may fire after `:quiet` and even after `:shutdown`,
//! and no such event may make a process look ready again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a Sidekiq process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The gem is installed; Sidekiq has not started yet.
    Booting,
    /// Sidekiq has started and fetches jobs.
    Running,
    /// It takes no more jobs; jobs may still run.
    Quiet,
    /// It is shutting down; jobs may still run.
    Stopping,
    /// The process ended by itself.
    Stopped,
}

impl State {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::Booting, Self::Running, Self::Quiet, Self::Stopping, Self::Stopped];
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Quiet => "quiet",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

/// What can happen to a Sidekiq process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Every `:startup` hook has run and Sidekiq's threads are there.
    Started,
    /// TSTP arrived, or `:quiet` fired.
    Quieted,
    /// TERM or INT arrived, or `:shutdown` fired.
    Stopped,
    /// The process is ending.
    Ended,
}

/// A state, and whether the process was quieted before it could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the process is.
    pub state: State,
    /// TSTP came while booting: the process goes from `booting` straight to `quiet`.
    pub quiet_asked: bool,
}

impl Progress {
    /// A process that has just started to boot.
    pub const BOOTING: Self = Self { state: State::Booting, quiet_asked: false };

    /// The progress after `event`.
    #[must_use]
    pub fn after(self, event: Event) -> Self {
        let booting = self.state == State::Booting;
        let quiet_asked = self.quiet_asked || event == Event::Quieted;
        let target = match event {
            Event::Started if quiet_asked => State::Quiet,
            Event::Started => State::Running,
            // A booting Sidekiq cannot be quieted yet: that happens once it has started.
            Event::Quieted if booting => State::Booting,
            Event::Quieted => State::Quiet,
            Event::Stopped => State::Stopping,
            Event::Ended => State::Stopped,
        };
        Self { state: self.state.max(target), quiet_asked }
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Ended, Quieted, Started, Stopped as Stop};
    use super::*;

    fn state_after(events: &[Event]) -> State {
        events.iter().fold(Progress::BOOTING, |progress, event| progress.after(*event)).state
    }

    #[test]
    fn transitions() {
        let table: &[(&[Event], State)] = &[
            (&[], State::Booting),
            (&[Started], State::Running),
            (&[Started, Quieted], State::Quiet),
            (&[Started, Quieted, Stop], State::Stopping),
            (&[Started, Stop], State::Stopping),
            (&[Started, Stop, Ended], State::Stopped),
            // TSTP during the boot is remembered for later.
            (&[Quieted], State::Booting),
            (&[Quieted, Started], State::Quiet),
            (&[Quieted, Stop], State::Stopping),
            // TERM during the boot: never ready, even if Sidekiq still starts everything before it stops.
            (&[Stop], State::Stopping),
            (&[Stop, Started], State::Stopping),
            (&[Ended], State::Stopped),
            // Nothing moves up.
            (&[Started, Quieted, Started], State::Quiet),
            (&[Started, Stop, Quieted], State::Stopping),
            (&[Started, Stop, Ended, Started], State::Stopped),
            (&[Started, Quieted, Quieted], State::Quiet),
        ];
        for (events, expected) in table {
            assert_eq!(state_after(events), *expected, "{events:?}");
        }
    }

    #[test]
    fn no_sequence_of_events_goes_back() {
        let events = [Started, Quieted, Stop, Ended];
        let mut frontier = vec![Progress::BOOTING];
        for _ in 0..5 {
            let mut next = Vec::new();
            for progress in frontier {
                for event in events {
                    let after = progress.after(event);
                    assert!(after.state >= progress.state, "{progress:?} {event:?}");
                    next.push(after);
                }
            }
            frontier = next;
        }
    }

    #[test]
    fn names_are_the_same_on_disk_and_on_screen() {
        for state in [State::Booting, State::Running, State::Quiet, State::Stopping, State::Stopped] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }
}
