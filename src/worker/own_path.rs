//! What a process reports about its own signal path.

use std::path::Path as File;

use nix::sys::signal::Signal;
use nix::unistd::getpid;

use crate::model::signal_path::{Path, Request};
use crate::model::stop_timeout::Need;
#[cfg(target_os = "linux")]
use crate::relay::launch as relay;
use crate::store::record::SignalPath;
use crate::sys::procfs::{Snapshot, look_until_settled};

/// The current path, and what is wrong with it, in one sentence. `None` without /proc. `needed`: the seconds that
/// Sidekiq needs to stop.
#[must_use]
pub fn own(needed: Option<f64>) -> Option<(SignalPath, Option<String>)> {
    let pid = getpid().as_raw();
    // In a PID namespace with the /proc of another one, the number means another process.
    if Snapshot::caller() != Some(pid) {
        return None;
    }
    let (mut path, relay) = path_and_relay(pid);
    if path.links().is_empty() {
        return None;
    }
    if relay.is_none() {
        // The relay of another Sidekiq forwards nothing to this one.
        path = path.without_relay();
    }
    let no_relay = path.fix().and_then(|_| no_relay(&path));
    let path = path.with_needed(needed);
    let doubt = path.doubt().map(|doubt| sentence(&doubt, None, &path));
    let problem = path.problem().map(|problem| sentence(&problem, no_relay.as_deref(), &path));
    let fates =
        SignalPath { term: path.fate(Request::Stop).0, tstp: path.fate(Request::Quiet).0, relay, no_relay, doubt };
    Some((fates, problem))
}

/// A relay that forwards nothing is about to end, or has just been killed: waits some milliseconds for its end, so
/// that the problem can be reported.
fn path_and_relay(pid: i32) -> (Path, Option<i32>) {
    let carries = |path: &Path| path.links().iter().any(|link| link.is_relayed);
    look_until_settled(|| (Snapshot::path(pid), alive()), |(path, relay)| relay.is_some() && !carries(path))
}

/// Starts the relay, if the path needs one. Takes at most 2 s; the relay may take longer. `command` is the native
/// command, `timeout` Sidekiq's `-t` in seconds.
pub fn start_relay(command: &File, timeout: Option<f64>) {
    #[cfg(target_os = "linux")]
    relay::start(command, timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = (command, timeout);
}

/// Whether the relay is running, or may still start.
#[must_use]
pub fn expects_relay() -> bool {
    alive().is_some() || is_pending()
}

/// Tells the relay which signals the application has traps of its own for.
pub fn trapped(signal: Signal) {
    #[cfg(target_os = "linux")]
    relay::trapped(signal);
    #[cfg(not(target_os = "linux"))]
    let _ = signal;
}

/// Sends the relay how long the stop may take.
pub fn limit(need: Need) {
    #[cfg(target_os = "linux")]
    relay::limit(need);
    #[cfg(not(target_os = "linux"))]
    let _ = need;
}

/// Dismisses the relay, if there is one.
pub fn stop_relay() {
    #[cfg(target_os = "linux")]
    relay::stop();
}

#[cfg(target_os = "linux")]
use crate::relay::launch::{alive, is_pending};
#[cfg(not(target_os = "linux"))]
fn alive() -> Option<i32> {
    None
}
#[cfg(not(target_os = "linux"))]
fn is_pending() -> bool {
    false
}

fn sentence(problem: &str, no_relay: Option<&str>, path: &Path) -> String {
    let why = no_relay.map(|why| format!("; {why}")).unwrap_or_default();
    let fix = path.fix().map(|fix| format!("; to fix it, {fix}")).unwrap_or_default();
    format!("{problem}{fix}{why}")
}

/// Why the relay does not help, if the application has not done without one.
#[cfg(target_os = "linux")]
fn no_relay(path: &Path) -> Option<String> {
    if relay::is_off() {
        return Some("signal_relay is off".to_owned());
    }
    if relay::is_pending() {
        return Some(
            "the relay has not started yet, because the machine is busy or the gem's disk does not answer".to_owned(),
        );
    }
    let report = relay::report()?;
    if let Some(failure) = &report.failure {
        return Some(format!("the relay could not be started ({failure})"));
    }
    if let (Some(pid), None) = (report.pid, alive()) {
        return Some(format!("the relay (pid {pid}) has ended"));
    }
    let (pid, refusal) = report.refused.first()?;
    let advice = refusal.advice(nix::unistd::geteuid().is_root());
    let separator = if advice.is_empty() { "" } else { ": " };
    if !refusal.is_of_a_process() {
        return Some(format!("the relay cannot work here because {refusal}{separator}{advice}"));
    }
    let link = path.links().iter().find(|link| link.pid == *pid).map_or_else(|| pid.to_string(), |link| link.title());
    Some(format!("the relay may not trace {link} because {refusal}{separator}{advice}"))
}

#[cfg(not(target_os = "linux"))]
fn no_relay(_path: &Path) -> Option<String> {
    None
}
