//! What `quiet`, `stop` and `wait` do.

use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::error::Error;
use super::messages;
use super::options::{Quiet, Stop, Wait};
use super::outcome::{End, Outcome, finish};
use super::process_set::{Collected, ProcessSet};
use super::waiter::Waiter;
use crate::cli::target::Target;
use crate::model::duration;
use crate::model::goal::{Goal, Standing};
use crate::model::probe::{self, Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::text::process_names;
use crate::output::progress::Progress;
use crate::store;
use crate::store::directory::Directory;
use crate::store::lookup::ObservedProcess;
use crate::sys::watch::Woken;

/// Runs `quiet`.
pub fn quiet(Quiet { target, wait, then_stop, timeout, json }: Quiet) -> ExitCode {
    if then_stop {
        return quiet_then_stop(&target.into(), wait, timeout, json);
    }
    let goal = if wait { Goal::Drained } else { Goal::Quiet };
    with_processes(&target.into(), goal, timeout, json, |set| {
        set.require_records(wait, "quiet --wait").map_err(Error::nothing_sent)?;
        set.refuse_to_suspend().map_err(Error::nothing_sent)?;
        let sent = set.quiet()?;
        if !wait {
            return Ok((Outcome::Reached, messages::quieted(set, &sent)));
        }
        Ok(match set.wait(goal, None)? {
            Some(outcome) => (outcome, messages::still_quiet(set, outcome)),
            None => verdict(set, goal),
        })
    })
}

/// Runs `quiet --then-stop`.
fn quiet_then_stop(target: &Target, wait: bool, timeout: Option<Duration>, json: bool) -> ExitCode {
    let goal = if wait { Goal::Stopped } else { Goal::Quiet };
    with_processes(target, goal, timeout, json, |set| {
        set.require_records(true, "quiet --then-stop").map_err(Error::nothing_sent)?;
        set.refuse_embedded().map_err(Error::nothing_sent)?;
        set.refuse_to_suspend().map_err(Error::nothing_sent)?;
        set.warn_of_companions();
        // Before the signal: a process without jobs has drained a moment later.
        set.request_stop()?;
        let sent = set.quiet()?;
        if !wait {
            return Ok((Outcome::Reached, messages::quieted_then_stop(set, &sent)));
        }
        if let Some(outcome) = set.wait(goal, None)? {
            return Ok((outcome, messages::still_draining(set, outcome)));
        }
        let unfinished = messages::unfinished_jobs(set);
        let (outcome, line) = verdict(set, goal);
        let outcome = if set.has_lost_jobs() { Outcome::NotReached } else { outcome };
        Ok((outcome, format!("{line}{unfinished}")))
    })
}

/// Runs `stop`.
pub fn stop(Stop { target, drain_first, timeout, kill_after, json }: Stop) -> ExitCode {
    with_processes(&target.into(), Goal::Stopped, timeout, json, |set| {
        set.require_records(drain_first, "stop --drain-first").map_err(Error::nothing_sent)?;
        set.refuse_embedded().map_err(Error::nothing_sent)?;
        let mut drained = (Outcome::Reached, String::new());
        if drain_first {
            set.refuse_to_suspend().map_err(Error::nothing_sent)?;
            set.quiet()?;
            if let Some(outcome) = set.wait(Goal::Drained, None)? {
                return Ok((outcome, messages::still_quiet(set, outcome)));
            }
            drained = verdict(set, Goal::Drained);
        }
        set.warn_of_companions();
        set.send(Signal::SIGTERM, |_| true)?;
        if let Some(outcome) = set.wait(Goal::Stopped, kill_after)? {
            return Ok((outcome, messages::still_stopping(set, outcome)));
        }
        let unfinished = messages::unfinished_jobs(set);
        if let Some(killed) = messages::killed(set) {
            return Ok((Outcome::NotReached, format!("{killed}{unfinished}")));
        }
        let (outcome, line) = verdict(set, Goal::Stopped);
        Ok(match drained {
            (Outcome::NotReached, why) => (Outcome::NotReached, format!("{why}; {line}{unfinished}")),
            _ if set.has_lost_jobs() => (Outcome::NotReached, format!("{line}{unfinished}")),
            _ => (outcome, format!("{line}{unfinished}")),
        })
    })
}

/// Runs `wait`.
pub fn wait(Wait { goal, target, timeout, json }: Wait) -> ExitCode {
    let goal = goal.into();
    match target.into() {
        Target::Directory(directory) if goal == Goal::Ready => wait_until_ready(&directory, timeout, json),
        target => with_processes(&target, goal, timeout, json, |set| {
            set.require_records(goal != Goal::Stopped, &format!("wait {goal}"))?;
            Ok(match set.wait(goal, None)? {
                Some(outcome) => {
                    let interruption = messages::interruption(set, outcome);
                    (outcome, format!("{interruption}: {}", messages::reasons(set, goal)))
                }
                None => verdict(set, goal),
            })
        }),
    }
}

/// Runs a command on the processes that are there now.
fn with_processes(
    target: &Target,
    goal: Goal,
    timeout: Option<Duration>,
    json: bool,
    run: impl FnOnce(&mut ProcessSet) -> Result<End, Error>,
) -> ExitCode {
    let mut set = match ProcessSet::collect(target, timeout) {
        Ok(Collected::Living(set)) => set,
        Ok(Collected::Ended(ended)) => return finish(&none_living(target, goal, &ended), &ended, json),
        Err(error) => return finish(&(Outcome::NotReached, error.to_string()), &[], json),
    };
    let end = run(&mut set).unwrap_or_else(|error| (Outcome::NotReached, error.to_string()));
    set.waiter.progress = Progress::default();
    finish(&end, &set.observed(), json)
}

/// Once no process is waited for any more.
fn verdict(set: &ProcessSet, goal: Goal) -> End {
    match messages::reasons(set, goal) {
        reasons if reasons.is_empty() => (Outcome::Reached, messages::reached(set, goal)),
        reasons => (Outcome::NotReached, format!("not {goal}: {reasons}")),
    }
}

/// What it means that no process is left.
fn none_living(target: &Target, goal: Goal, ended: &[ObservedProcess]) -> End {
    if let (Some(directory), []) = (target.directory(), ended) {
        return (Outcome::NotReached, format!("no Sidekiq has registered in {}", directory.display()));
    }
    let why = |facts: &Facts| facts.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
    let facts = ended.iter().map(ObservedProcess::facts);
    let elsewhere = facts.clone().find(|facts| facts.presence == Presence::Elsewhere && !facts.has_stopped());
    if let Some(facts) = elsewhere {
        return (Outcome::NotReached, why(&facts));
    }
    // The same answer as if they had ended a moment later. The program around an embedded one may live on.
    let facts: Vec<Facts> = facts.map(|facts| Facts { presence: Presence::Gone, ..facts }).collect();
    let failed = facts.iter().rev().find(|facts| goal.standing(facts) != Standing::Reached);
    match (failed, facts.last()) {
        (Some(facts), _) => (Outcome::NotReached, format!("not {goal}: {}", why(facts))),
        (None, Some(last)) => (Outcome::Reached, format!("{goal} already: {}", why(last))),
        (None, None) => (Outcome::NotReached, "no Sidekiq is running here".to_owned()),
    }
}

/// `wait ready` of a directory considers every process that is present at the time: one that dies meanwhile may be
/// replaced.
fn wait_until_ready(directory: &Directory, timeout: Option<Duration>, json: bool) -> ExitCode {
    let mut waiter = match Waiter::start(timeout) {
        Ok(waiter) => waiter,
        Err(error) => return finish(&(Outcome::NotReached, error.to_string()), &[], json),
    };
    let (end, observed) = loop {
        // Before it is read, so that a later change wakes the wait.
        waiter.watch.directory(directory.path());
        let observed: Vec<ObservedProcess> = match directory.read() {
            Ok(entries) => entries.into_iter().map(|entry| ObservedProcess::recorded(entry, directory)).collect(),
            Err(store::error::Error::Missing(_)) => Vec::new(),
            Err(error) => break ((Outcome::NotReached, error.to_string()), Vec::new()),
        };
        let facts: Vec<Facts> = observed.iter().map(ObservedProcess::facts).collect();
        let counting: Vec<Facts> = facts.iter().filter(|facts| facts.counts()).cloned().collect();
        let elapsed = || duration::format(waiter.started.elapsed().as_secs_f64());
        let Err(reason) = probe::ask(&facts, Probe::Ready, MAX_BEAT_AGE) else {
            let pids: Vec<i32> = counting.iter().map(|facts| facts.pid).collect();
            let line = format!("ready after {}: {}", elapsed(), process_names(&pids));
            break ((Outcome::Reached, line), observed);
        };
        let reason = Goal::Ready.never_ready(&counting).unwrap_or(reason);
        if waiter.is_over() {
            break ((Outcome::TimedOut, format!("timed out after {}: {reason}", elapsed())), observed);
        }
        waiter.show(Goal::Ready, &counting, vec![reason.clone()]);
        match waiter.sleep(&[], None) {
            Ok(Woken { signal: Some(signal), .. }) => {
                let elapsed = duration::format(waiter.started.elapsed().as_secs_f64());
                break ((Outcome::Interrupted(signal), format!("interrupted after {elapsed}: {reason}")), observed);
            }
            Ok(_) => {}
            Err(error) => break ((Outcome::NotReached, error.to_string()), observed),
        }
    };
    drop(waiter);
    finish(&end, &observed, json)
}
