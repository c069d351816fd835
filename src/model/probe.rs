//! The three probes, and what each checks in a process and in a directory of processes.

use std::fmt;
use std::time::Duration;

use crate::model::job::jobs;
use crate::model::state::State;

/// Sidekiq drops a process from its own registry when its last heartbeat is older than this (`launcher.rb`:
/// `expire(key, 60)`), so a process without a heartbeat for longer counts as stopped here too.
pub const MAX_BEAT_AGE: Duration = Duration::from_secs(60);

/// A check of a Sidekiq process, with Kubernetes' terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The process exists and Ruby's heartbeat is fresh. Stays true while it drains.
    Live,
    /// Live, and `running`.
    Ready,
    /// `quiet` or `stopping`, and Sidekiq has finished with every job.
    Drained,
}

impl fmt::Display for Probe {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Drained => "drained",
        })
    }
}

/// Whether the process of a record exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It exists: same pid, same start time.
    Here,
    /// It has ended: no process has that pid, or another one has.
    Gone,
    /// It is in another PID namespace (another container) or on another machine, so its pid means another process
    /// here.
    Elsewhere,
}

/// Everything that the probes need to know about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The process id, for messages.
    pub pid: i32,
    /// Whether the process exists.
    pub presence: Presence,
    /// Its state, as last recorded.
    pub state: State,
    /// Sidekiq has finished with every job it had fetched.
    pub drained: bool,
    /// Its running jobs, as last recorded.
    pub busy: u32,
    /// Their names, as a list for people; empty if they are not known.
    pub jobs: String,
    /// How long ago the last heartbeat was; `None` before the first one.
    pub beat_age: Option<Duration>,
    /// How it ended, if it recorded that.
    pub ended: Option<String>,
    /// Why it is not ready although it is running.
    pub withheld: Option<String>,
    /// Why it can never drain.
    pub never_drains: Option<String>,
    /// Why its record cannot be read; if so, only the pid and the presence are known.
    pub unreadable: Option<String>,
}

/// `Ok` is yes; `Err` is no, with the reason in one line.
pub type Answer = Result<(), String>;

impl Facts {
    /// A process of which only its presence is known, and why no more is.
    #[must_use]
    pub fn unknown(pid: i32, presence: Presence, reason: String) -> Self {
        Self {
            pid,
            presence,
            state: State::Booting,
            drained: false,
            busy: 0,
            jobs: String::new(),
            beat_age: None,
            ended: None,
            withheld: None,
            never_drains: None,
            unreadable: Some(reason),
        }
    }

    /// A healthy process.
    #[cfg(test)]
    pub(super) fn example(pid: i32, state: State) -> Self {
        Self {
            pid,
            presence: Presence::Here,
            state,
            drained: false,
            busy: 0,
            jobs: String::new(),
            beat_age: Some(Duration::from_secs(1)),
            ended: None,
            withheld: None,
            never_drains: None,
            unreadable: None,
        }
    }

    /// Whether the process counts in a check of a directory: it exists and has not recorded its end.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.presence == Presence::Here && self.state != State::Stopped
    }

    /// Whether Sidekiq has stopped; the program around an embedded one may go on.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// Checks one process.
    ///
    /// # Errors
    /// The reason if the check fails.
    pub fn answer(&self, probe: Probe, max_beat_age: Duration) -> Answer {
        let pid = self.pid;
        self.is_there()?;
        match probe {
            Probe::Live => self.has_heartbeat(max_beat_age),
            Probe::Ready => {
                if self.state != State::Running {
                    return Err(format!("process {pid} is {}", self.state));
                }
                if let Some(reason) = &self.withheld {
                    return Err(format!("process {pid} is running, but {reason}"));
                }
                self.has_heartbeat(max_beat_age)
            }
            Probe::Drained => match (self.state, &self.never_drains) {
                (State::Quiet | State::Stopping, _) if self.drained => Ok(()),
                (state, Some(reason)) => Err(format!("process {pid} is {state}, and can never drain: {reason}")),
                (state @ (State::Quiet | State::Stopping), None) => Err(match self.still_running() {
                    Some(jobs) => format!("process {pid} is {state}, {jobs}"),
                    None => format!("process {pid} is {state}, and its processor threads have not all finished"),
                }),
                (state, None) => Err(format!("process {pid} is {state} and has not been quieted")),
            },
        }
    }

    /// "2 jobs still running: A 1, B 2"; `None` if none is.
    #[must_use]
    pub fn still_running(&self) -> Option<String> {
        let names = if self.jobs.is_empty() { String::new() } else { format!(": {}", self.jobs) };
        jobs(self.busy).map(|jobs| format!("{jobs} still running{names}"))
    }

    fn is_there(&self) -> Answer {
        let pid = self.pid;
        match (self.presence, &self.ended, &self.unreadable) {
            (Presence::Elsewhere, ..) => {
                Err(format!("process {pid} belongs to another container (PID namespace) or machine; query it there"))
            }
            (_, Some(ended), _) => Err(format!("process {pid} has stopped ({ended})")),
            (Presence::Gone, ..) => Err(format!("process {pid} is gone")),
            (_, _, Some(reason)) => Err(format!("the record of process {pid} cannot be read: {reason}")),
            (Presence::Here, None, None) => Ok(()),
        }
    }

    fn has_heartbeat(&self, max_beat_age: Duration) -> Answer {
        match self.beat_age {
            Some(age) if age > max_beat_age => Err(format!(
                "process {} has had no heartbeat for {} s (more than {} s): Ruby is stuck, or Redis hangs",
                self.pid,
                age.as_secs(),
                max_beat_age.as_secs()
            )),
            _ => Ok(()),
        }
    }
}

/// Checks a directory: passes if at least one process counts and every one that counts passes. The last one of
/// `processes` is the one with the latest news; it gives the reason if none counts.
///
/// # Errors
/// The reason if the check fails, from the first process that fails it.
pub fn ask(processes: &[Facts], probe: Probe, max_beat_age: Duration) -> Answer {
    if !processes.iter().any(Facts::counts) {
        return match processes.last() {
            Some(last) => last.is_there(),
            None => Err("no Sidekiq has registered here".to_owned()),
        };
    }
    processes.iter().filter(|process| process.counts()).try_for_each(|process| process.answer(probe, max_beat_age))
}

/// Whether a sentinel file should exist: by state alone, without the heartbeat's age, because no timer of this gem
/// may wake an idle worker only to check it. `check` includes the heartbeat.
#[must_use]
pub fn sentinel(processes: &[Facts], probe: Probe) -> bool {
    ask(processes, probe, Duration::MAX).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = MAX_BEAT_AGE;

    fn process(pid: i32, state: State) -> Facts {
        Facts::example(pid, state)
    }

    fn gone(pid: i32, state: State) -> Facts {
        Facts { presence: Presence::Gone, ..process(pid, state) }
    }

    fn reason(processes: &[Facts], probe: Probe) -> String {
        match ask(processes, probe, AGE) {
            Ok(()) => "yes".to_owned(),
            Err(reason) => reason,
        }
    }

    #[test]
    fn one_process() {
        use Probe::{Drained, Live, Ready};
        let drained = |state| Facts { drained: true, ..process(7, state) };
        let busy = |state, busy| Facts { busy, ..process(7, state) };
        let silent = |state| Facts { beat_age: Some(Duration::from_secs(61)), ..process(7, state) };
        let unborn = Facts { beat_age: None, ..process(7, State::Booting) };
        let ended = Facts { ended: Some("exit 0 after SIGTERM".to_owned()), ..process(7, State::Stopped) };
        let elsewhere = Facts { presence: Presence::Elsewhere, ..process(7, State::Running) };
        let withheld = |state| Facts { withheld: Some("a SIGTERM is lost".to_owned()), ..process(7, state) };
        let stuck = |state, jobs| Facts { never_drains: Some("a thread has died".to_owned()), ..busy(state, jobs) };
        let unreadable = Facts { unreadable: Some("EOF".to_owned()), ..process(7, State::Booting) };
        let table: &[(Facts, Probe, &str)] = &[
            (unborn.clone(), Live, "yes"),
            (unborn.clone(), Ready, "process 7 is booting"),
            (unborn, Drained, "process 7 is booting and has not been quieted"),
            (process(7, State::Running), Live, "yes"),
            (process(7, State::Running), Ready, "yes"),
            (withheld(State::Running), Live, "yes"),
            (withheld(State::Running), Ready, "process 7 is running, but a SIGTERM is lost"),
            (withheld(State::Quiet), Ready, "process 7 is quiet"),
            (process(7, State::Running), Drained, "process 7 is running and has not been quieted"),
            (drained(State::Running), Drained, "process 7 is running and has not been quieted"),
            (process(7, State::Quiet), Live, "yes"),
            (process(7, State::Quiet), Ready, "process 7 is quiet"),
            (process(7, State::Quiet), Drained, "process 7 is quiet, and its processor threads have not all finished"),
            (busy(State::Quiet, 1), Drained, "process 7 is quiet, 1 job still running"),
            (busy(State::Stopping, 2), Drained, "process 7 is stopping, 2 jobs still running"),
            (stuck(State::Running, 0), Ready, "yes"),
            (stuck(State::Running, 0), Drained, "process 7 is running, and can never drain: a thread has died"),
            (stuck(State::Quiet, 1), Live, "yes"),
            (stuck(State::Quiet, 1), Drained, "process 7 is quiet, and can never drain: a thread has died"),
            (drained(State::Quiet), Drained, "yes"),
            (drained(State::Stopping), Drained, "yes"),
            (drained(State::Stopping), Live, "yes"),
            (
                silent(State::Running),
                Live,
                "process 7 has had no heartbeat for 61 s (more than 60 s): Ruby is stuck, or Redis hangs",
            ),
            (
                silent(State::Running),
                Ready,
                "process 7 has had no heartbeat for 61 s (more than 60 s): Ruby is stuck, or Redis hangs",
            ),
            (gone(7, State::Running), Live, "process 7 is gone"),
            (gone(7, State::Running), Ready, "process 7 is gone"),
            (ended.clone(), Ready, "process 7 has stopped (exit 0 after SIGTERM)"),
            (Facts { presence: Presence::Gone, ..ended }, Drained, "process 7 has stopped (exit 0 after SIGTERM)"),
            (unreadable.clone(), Live, "the record of process 7 cannot be read: EOF"),
            (Facts { presence: Presence::Gone, ..unreadable }, Live, "process 7 is gone"),
            (elsewhere, Ready, "process 7 belongs to another container (PID namespace) or machine; query it there"),
        ];
        for (facts, probe, expected) in table {
            assert_eq!(reason(std::slice::from_ref(facts), *probe), *expected, "{facts:?} {probe:?}");
        }
    }

    #[test]
    fn a_directory_of_processes() {
        use State::{Booting, Quiet, Running, Stopping};
        let drained = Facts { drained: true, ..process(9, Quiet) };
        let table: &[(&[Facts], Probe, &str)] = &[
            (&[], Probe::Ready, "no Sidekiq has registered here"),
            (&[process(1, Running), process(2, Running)], Probe::Ready, "yes"),
            (&[process(1, Running), process(2, Booting)], Probe::Ready, "process 2 is booting"),
            (&[process(1, Quiet), process(2, Running)], Probe::Ready, "process 1 is quiet"),
            // What a dead process left neither hides another's readiness nor replaces it.
            (&[gone(1, Quiet), process(2, Running)], Probe::Ready, "yes"),
            (&[gone(1, Running), process(2, Booting)], Probe::Ready, "process 2 is booting"),
            (&[gone(1, Running), gone(2, Running)], Probe::Ready, "process 2 is gone"),
            (
                &[drained.clone(), process(2, Stopping)],
                Probe::Drained,
                "process 2 is stopping, and its processor threads have not all finished",
            ),
            (&[drained.clone(), process(2, Running)], Probe::Drained, "process 2 is running and has not been quieted"),
            (&[drained, gone(2, Running)], Probe::Drained, "yes"),
        ];
        for (processes, probe, expected) in table {
            assert_eq!(reason(processes, *probe), *expected, "{processes:?} {probe:?}");
        }
    }

    #[test]
    fn a_sentinel_ignores_the_heartbeat() {
        let silent = Facts { beat_age: Some(Duration::from_secs(3600)), ..process(7, State::Running) };
        assert!(sentinel(std::slice::from_ref(&silent), Probe::Ready));
        assert!(ask(&[silent], Probe::Ready, AGE).is_err());
    }
}
