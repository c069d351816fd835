//! Every sentence that `quiet`, `stop` and `wait` end with.

use super::outcome::Outcome;
use super::process_set::{Loss, Member, ProcessSet, SHOWN_REASONS};
use crate::model::duration;
use crate::model::goal::{Goal, Standing};
use crate::model::job::{self, Job, jobs};
use crate::model::probe::{Facts, Presence};
use crate::model::state::State;
use crate::model::text::process_names;
use crate::store::record::now;

/// What `quiet` has done: "sent SIGTSTP to process 7; already quiet: process 8".
pub fn quieted(set: &ProcessSet, sent: &[i32]) -> String {
    const SENT: &str = "sent SIGTSTP to";
    let group_of = |member: &Member| match member.facts() {
        _ if sent.contains(&member.pidfd.pid) => SENT,
        Facts { presence: Presence::Gone, .. } => "already ended:",
        Facts { state: State::Quiet, .. } => "already quiet:",
        _ => "already stopping:",
    };
    let groups = [SENT, "already quiet:", "already stopping:", "already ended:"].into_iter().filter_map(|group| {
        let pids = set.pids(|member| group_of(member) == group);
        (!pids.is_empty()).then(|| format!("{group} {}", process_names(&pids)))
    });
    groups.collect::<Vec<_>>().join("; ")
}

/// What `quiet --then-stop` has done.
pub fn quieted_then_stop(set: &ProcessSet, sent: &[i32]) -> String {
    let living = set.pids(|member| !member.has_ended).len();
    let each = match living {
        0 => "",
        1 => "; it stops when it has drained",
        _ => "; each stops when it has drained",
    };
    format!("{}{each}", quieted(set, sent))
}

/// A `quiet --then-stop` whose wait has ended too early takes nothing back.
pub fn still_draining(set: &ProcessSet, outcome: Outcome) -> String {
    let each = if set.pids(|member| !member.has_ended).len() == 1 { "it" } else { "each" };
    format!(
        "{}, not stopped: {}; {each} still stops when it has drained: to keep waiting, run sidekiq-lifecycle wait stopped",
        interruption(set, outcome),
        reasons(set, Goal::Stopped),
    )
}

/// What keeps them from the goal; what will never reach it comes first.
pub fn reasons(set: &ProcessSet, goal: Goal) -> String {
    let failed = set.members.iter().filter_map(|member| match goal.standing(&member.facts()) {
        Standing::Failed(reason) => Some(reason),
        Standing::Reached | Standing::Waiting(_) => None,
    });
    let reasons: Vec<String> = failed.chain(set.waiting(goal)).collect();
    let more = match reasons.len().saturating_sub(SHOWN_REASONS) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let shown: Vec<String> = reasons.into_iter().take(SHOWN_REASONS).collect();
    format!("{}{more}", shown.join("; "))
}

/// That all have reached the goal.
pub fn reached(set: &ProcessSet, goal: Goal) -> String {
    let time = duration::format(set.waiter.started.elapsed().as_secs_f64());
    format!("{goal} after {time}: {}", process_names(&set.pids(|_| true)))
}

/// Why the wait has ended before that, and after how long.
pub fn interruption(set: &ProcessSet, outcome: Outcome) -> String {
    match (outcome, set.waiter.timeout) {
        (Outcome::TimedOut, Some(timeout)) => format!("timed out after {}", duration::format(timeout.as_secs_f64())),
        _ => format!("interrupted after {}", duration::format(set.waiter.started.elapsed().as_secs_f64())),
    }
}

/// A `quiet` whose wait has ended too early leaves the processes quiet.
pub fn still_quiet(set: &ProcessSet, outcome: Outcome) -> String {
    let living = set.pids(|member| !member.has_ended);
    let (stay, them) = if living.len() == 1 { ("stays", "it") } else { ("stay", "them") };
    format!(
        "{}, not drained: {}; {} {stay} quiet: to keep waiting, run sidekiq-lifecycle wait drained; to stop \
         {them}, run sidekiq-lifecycle stop",
        interruption(set, outcome),
        reasons(set, Goal::Drained),
        process_names(&living)
    )
}

/// A `stop` whose wait has ended too early takes nothing back.
pub fn still_stopping(set: &ProcessSet, outcome: Outcome) -> String {
    format!(
        "{}, not stopped: {}; SIGTERM was sent to {}: to keep waiting, run sidekiq-lifecycle wait stopped",
        interruption(set, outcome),
        reasons(set, Goal::Stopped),
        process_names(&set.pids(|member| !member.has_ended))
    )
}

/// Which processes were killed, and what that has cost; `None` if none was.
pub fn killed(set: &ProcessSet) -> Option<String> {
    let groups = [Loss::Jobs, Loss::Recorded, Loss::Perhaps, Loss::Nothing].into_iter().filter_map(|loss| {
        let pids = set.pids(|member| member.was_killed && member.loss() == loss);
        let (its, it) = if pids.len() == 1 { ("its", "it") } else { ("their", "they") };
        let jobs_of = |jobs: fn(&Member) -> Vec<Job>| {
            let members = set.members.iter().filter(|member| member.was_killed && member.loss() == loss);
            named(&members.flat_map(jobs).collect::<Vec<Job>>())
        };
        let cost = match loss {
            Loss::Jobs => format!("{its} running jobs are lost{}", jobs_of(|member| member.jobs().running)),
            Loss::Recorded => {
                let jobs = jobs_of(|member| member.left_behind().unwrap_or_default());
                format!("{its} running jobs wait in the flight recorder to be put back{jobs}")
            }
            Loss::Perhaps => "any running jobs are lost".to_owned(),
            Loss::Nothing => format!("{it} had no jobs"),
        };
        (!pids.is_empty()).then(|| format!("killed {}: {cost}", process_names(&pids)))
    });
    let groups: Vec<String> = groups.collect();
    (!groups.is_empty()).then(|| groups.join("; "))
}

/// ": A 1, B 2"; nothing if they are not known.
fn named(jobs: &[Job]) -> String {
    if jobs.is_empty() { String::new() } else { format!(": {}", job::list(jobs, now())) }
}

/// Which processes could not finish their jobs in time. Sidekiq pushes these back, and they run again elsewhere, unless Redis
/// does not take them.
pub fn unfinished_jobs(set: &ProcessSet) -> String {
    let sentences = set.members.iter().map(|member| {
        let (pid, lost) = (member.pidfd.pid, member.lost());
        let interrupted = jobs(member.interrupted()).map(|jobs| {
            let pushed = if lost == 0 { " and pushed back to Redis" } else { "" };
            let names = named(&member.jobs().interrupted);
            format!("; process {pid}: {jobs} interrupted at Sidekiq's shutdown timeout{pushed}{names}")
        });
        let them = if lost == 1 { "it" } else { "them" };
        let lost = jobs(lost).map(|jobs| {
            let names = named(&member.jobs().lost);
            format!("; process {pid}: {jobs} lost, because Redis did not take {them} back{names}")
        });
        [interrupted, lost].into_iter().flatten().collect::<String>()
    });
    sentences.collect()
}
