//! What a command can wait for, and whether a process has reached it.

use std::fmt;

use crate::model::job::jobs;
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::state::State;

/// The state to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It takes jobs.
    Ready,
    /// It takes no more jobs.
    Quiet,
    /// It takes no more jobs, and has finished every job that it had.
    Drained,
    /// It has ended, in whatever way.
    Stopped,
}

impl fmt::Display for Goal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Ready => "ready",
            Self::Quiet => "quiet",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
        })
    }
}

/// Whether a process has reached a [`Goal`]; the reasons are one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Reached.
    Reached,
    /// Not yet.
    Waiting(String),
    /// It never will be.
    Failed(String),
}

impl Goal {
    /// Whether one process has reached the goal.
    #[must_use]
    pub fn standing(self, process: &Facts) -> Standing {
        let pid = process.pid;
        if process.presence == Presence::Gone {
            // A process that has ended has reached the goals on the way only if it had drained before.
            let is_there = match self {
                Self::Stopped => true,
                Self::Quiet | Self::Drained => process.drained,
                Self::Ready => false,
            };
            let why = || process.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
            return if is_there { Standing::Reached } else { Standing::Failed(why()) };
        }
        if self == Self::Stopped {
            let jobs = process.still_running().map(|jobs| format!(", {jobs}")).unwrap_or_default();
            return Standing::Waiting(match process.unreadable {
                Some(_) => format!("process {pid} exists"),
                None => format!("process {pid} is {}{jobs}", process.state),
            });
        }
        let answer = match self {
            _ if process.unreadable.is_some() => process.answer(Probe::Live, MAX_BEAT_AGE),
            Self::Quiet if process.state >= State::Quiet => Ok(()),
            Self::Quiet => Err(format!("process {pid} is {}", process.state)),
            Self::Ready => process.answer(Probe::Ready, MAX_BEAT_AGE),
            Self::Drained | Self::Stopped => process.answer(Probe::Drained, MAX_BEAT_AGE),
        };
        match (answer, self) {
            (Ok(()), _) => Standing::Reached,
            // States never go back.
            (Err(reason), Self::Ready) if process.state >= State::Quiet => {
                Standing::Failed(format!("{reason} and will not be ready again"))
            }
            (Err(reason), Self::Drained) if process.never_drains.is_some() => Standing::Failed(reason),
            (Err(reason), _) => Standing::Waiting(reason),
        }
    }

    /// The progress of all processes, in one line.
    #[must_use]
    pub fn progress(self, processes: &[Facts]) -> String {
        let done = processes.iter().filter(|process| self.standing(process) == Standing::Reached).count();
        let busy =
            processes.iter().filter(|process| process.presence == Presence::Here).map(|process| process.busy).sum();
        let jobs = jobs(busy).filter(|_| self != Self::Ready).map(|jobs| format!(", {jobs} running"));
        let never = self.never_ready(processes).map(|reason| format!(", {reason}"));
        format!("{done} of {} {self}{}{}", processes.len(), jobs.unwrap_or_default(), never.unwrap_or_default())
    }

    /// If the goal is `ready`, why one process will never be, and what to do; starting another process would not
    /// help.
    #[must_use]
    pub fn never_ready(self, processes: &[Facts]) -> Option<String> {
        processes.iter().filter(|_| self == Self::Ready).find_map(|process| match self.standing(process) {
            Standing::Failed(reason) if process.presence == Presence::Here => Some(format!("{reason}: stop it")),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Goal::{Drained, Quiet, Ready, Stopped};
    use super::*;

    fn process(state: State) -> Facts {
        Facts::example(7, state)
    }

    fn ended(why: &str, drained: bool) -> Facts {
        let ended = Some(why.to_owned());
        Facts { presence: Presence::Gone, ended, drained, ..process(State::Stopped) }
    }

    #[test]
    fn one_process() {
        let busy = |state, busy| Facts { busy, ..process(state) };
        let drained = |state| Facts { drained: true, ..process(state) };
        let killed = |state| Facts { presence: Presence::Gone, ..process(state) };
        let withheld = Facts { withheld: Some("a SIGTERM is lost".to_owned()), ..process(State::Running) };
        let stuck = |state| Facts { never_drains: Some("a thread has died".to_owned()), ..process(state) };
        let unknown = Facts { unreadable: Some("there is none".to_owned()), ..process(State::Booting) };
        let cut_off = ended("exit 0, SIGTERM, 2 jobs interrupted", false);
        let table: &[(Goal, Facts, &str)] = &[
            (Ready, process(State::Booting), "not yet: process 7 is booting"),
            (Ready, process(State::Running), "reached"),
            (Ready, withheld, "not yet: process 7 is running, but a SIGTERM is lost"),
            (Ready, process(State::Quiet), "never: process 7 is quiet and will not be ready again"),
            (Ready, ended("exit 1", false), "never: process 7 has stopped (exit 1)"),
            (Ready, killed(State::Running), "never: process 7 is gone"),
            (Ready, ended("exit 0", true), "never: process 7 has stopped (exit 0)"),
            (Quiet, process(State::Booting), "not yet: process 7 is booting"),
            (Quiet, busy(State::Running, 2), "not yet: process 7 is running"),
            (Quiet, busy(State::Quiet, 2), "reached"),
            (Quiet, busy(State::Stopping, 2), "reached"),
            (Quiet, killed(State::Running), "never: process 7 is gone"),
            (Quiet, ended("exit 0, SIGTERM", true), "reached"),
            (Drained, process(State::Running), "not yet: process 7 is running and has not been quieted"),
            (Drained, busy(State::Quiet, 1), "not yet: process 7 is quiet, 1 job still running"),
            (Drained, stuck(State::Running), "never: process 7 is running, and can never drain: a thread has died"),
            (Drained, stuck(State::Quiet), "never: process 7 is quiet, and can never drain: a thread has died"),
            (Quiet, stuck(State::Running), "not yet: process 7 is running"),
            (Stopped, stuck(State::Stopping), "not yet: process 7 is stopping"),
            (Drained, drained(State::Quiet), "reached"),
            (Drained, ended("exit 0, SIGTERM", true), "reached"),
            (Drained, Facts { presence: Presence::Gone, ..drained(State::Quiet) }, "reached"),
            (Drained, cut_off.clone(), "never: process 7 has stopped (exit 0, SIGTERM, 2 jobs interrupted)"),
            (Drained, killed(State::Quiet), "never: process 7 is gone"),
            (Drained, unknown.clone(), "not yet: the record of process 7 cannot be read: there is none"),
            // It has recorded its end, and still exists.
            (
                Drained,
                Facts { presence: Presence::Here, ..cut_off.clone() },
                "not yet: process 7 has stopped (exit 0, SIGTERM, 2 jobs interrupted)",
            ),
            (Stopped, busy(State::Stopping, 2), "not yet: process 7 is stopping, 2 jobs still running"),
            (Stopped, process(State::Stopped), "not yet: process 7 is stopped"),
            (Stopped, unknown, "not yet: process 7 exists"),
            (Stopped, cut_off, "reached"),
            (Stopped, killed(State::Booting), "reached"),
        ];
        for (goal, facts, expected) in table {
            let standing = match goal.standing(facts) {
                Standing::Reached => "reached".to_owned(),
                Standing::Waiting(reason) => format!("not yet: {reason}"),
                Standing::Failed(reason) => format!("never: {reason}"),
            };
            assert_eq!(standing, *expected, "{goal} {facts:?}");
        }
    }

    #[test]
    fn all_of_them() {
        let quiet = Facts { busy: 24, ..process(State::Quiet) };
        let drained = Facts { drained: true, ..process(State::Quiet) };
        let one = Facts { busy: 1, ..process(State::Running) };
        let gone = Facts { busy: 5, ..ended("exit 0", true) };
        for (goal, processes, expected) in [
            (
                Drained,
                vec![quiet.clone(), drained.clone(), one.clone(), gone.clone()],
                "2 of 4 drained, 25 jobs running",
            ),
            (Stopped, vec![one.clone(), gone], "1 of 2 stopped, 1 job running"),
            (Stopped, vec![drained], "0 of 1 stopped"),
            (Ready, vec![one, quiet], "1 of 2 ready, process 7 is quiet and will not be ready again: stop it"),
        ] {
            assert_eq!(goal.progress(&processes), expected);
        }
    }
}
