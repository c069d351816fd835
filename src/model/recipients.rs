//! Which processes an init signals: the worker, wherever it is below shells and other programs.
//!
//! From the first child down, shells, timeout and inits are only wrappers, and so is a program that leads to a
//! Sidekiq: su, sudo, a secret injector, foreman, Puma. Any process directly below wrappers could be the worker. If
//! there are several, the Sidekiqs are workers; without a Sidekiq, those that handle the signal; without one of
//! those, all of them.
//!
//! A wrapper program does not receive a signal that Sidekiq itself handles, because it may swallow the signal, or
//! kill Sidekiq some seconds later (su 2, foreman 5). If it handles the signal, it [follows](Recipients::followers):
//! it receives the signal once the workers have ended, and so does a web server beside them. There are two
//! exceptions. A program with several Sidekiqs below it that handles the signal receives it in their place, because
//! the end of the first one would make it act. And a program that reads a pipe, such as tee and svlogd, ends with its
//! writer.
//!
//! A shell without a trap for the signal would die of it, or stop: it does not receive it, waits for the worker as
//! always, and ends with it. A shell with a trap does receive it. Whether the worker also receives it depends on
//! where it runs: not if it runs in the background of that shell, whose trap [runs at
//! once](crate::model::shell_traps) and decides. If the shell ends without signalling it, the rule for the end of the
//! init's command stops the worker.

use nix::sys::signal::Signal;

use crate::model::program::Program;
use crate::model::shell_traps;
use crate::model::signal_map::Number;

/// What the rule needs to know about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// Its parent's pid.
    pub parent: i32,
    /// Which kind of program it is.
    pub program: Program,
    /// Whether it is a Sidekiq.
    pub is_sidekiq: bool,
    /// Whether its standard input is a pipe other than the init's own.
    pub is_reader: bool,
    /// The signals it handles, or blocks in order to wait for them; bit n - 1 for signal n.
    pub handled: u64,
    /// The signals it ignores.
    pub ignored: u64,
}

/// The processes that are signalled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients {
    /// Wrappers that receive it as well as the worker.
    pub between: Vec<i32>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// Processes that receive it once the workers have ended, unless they have ended as well; only for [`STOPS`].
    pub followers: Vec<i32>,
}

impl Recipients {
    /// Removes every process that a signal of [`STOPPING`] would suspend, such as a web server once its Sidekiq has
    /// exited: nothing would continue it, and the container would never end.
    pub fn spare_from_suspension(&mut self, processes: &[Process], signal: Number) {
        if signal.is_in(&STOPPING) {
            let suspends = |pid| processes.iter().any(|process| process.pid == pid && !process.handles(signal));
            self.workers.retain(|worker| !suspends(worker.pid));
        }
    }
}

/// A worker, and whether it receives the signal, or a shell with the worker in its background decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The process id.
    pub pid: i32,
    /// The shell whose trap decides; `None` if the worker receives the signal.
    pub decider: Option<i32>,
}

/// How a signal sent to the init reaches a Sidekiq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The init sends it. Wrappers receive nothing before Sidekiq has ended, so none of them swallows the signal or
    /// kills.
    Direct,
    /// The trap of this shell decides.
    Trap(i32),
    /// This program receives the signal in its place, and acts in its own way.
    Through(i32),
    /// It does not reach it.
    None,
}

/// Signals whose default action stops a process.
pub const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// Signals that stop a worker.
pub const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Signals that every Sidekiq handles (`cli.rb`). What other signals mean to a program around it is up to that
/// program.
const SIDEKIQS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTSTP, Signal::SIGTTIN];

/// No chain of processes is longer: reading /proc takes time, and a pid may be reused meanwhile.
const DEPTH: usize = 64;

/// Whether a program is only a wrapper: it waits for its command, and ends with it.
#[must_use]
pub fn is_wrapper(program: Program) -> bool {
    matches!(program, Program::Shell | Program::Timeout | Program::Run) || program.ends_with_first_child()
}

impl Process {
    /// Whether it has a handler for the signal, or waits for it.
    #[must_use]
    pub fn handles(&self, signal: Number) -> bool {
        has(self.handled, signal)
    }

    fn for_traps(&self) -> shell_traps::Process {
        shell_traps::Process { program: self.program, ignored: self.ignored }
    }
}

fn has(mask: u64, signal: Number) -> bool {
    mask >> (signal.raw() - 1) & 1 == 1
}

/// Which processes receive the signal, among those at and below `roots`.
#[must_use]
pub fn recipients(processes: &[Process], roots: &[i32], signal: Number) -> Recipients {
    let mut search = Search { processes, signal, between: Vec::new(), passed: Vec::new(), found: Vec::new() };
    for root in processes.iter().filter(|process| roots.contains(&process.pid)) {
        search.descend(root, Above::default(), DEPTH);
    }
    let Search { between, passed, found, .. } = search;
    let has_sidekiq = found.iter().any(|found| found.has_sidekiq);
    let is_handled = found.iter().any(|found| found.process.handles(signal));
    let (chosen, beside): (Vec<Found<'_>>, Vec<Found<'_>>) = found
        .into_iter()
        .partition(|found| if has_sidekiq { found.has_sidekiq } else { !is_handled || found.process.handles(signal) });
    let worker = |found: &Found<'_>| Worker { pid: found.process.pid, decider: found.above.decider };
    let mut workers: Vec<Worker> = chosen.iter().map(worker).collect();
    // Only shells, or no /proc: the roots themselves, unless the signal would only suspend them for ever.
    if workers.is_empty() && between.is_empty() {
        let would_stop = |pid: i32| signal.is_in(&STOPPING) && processes.iter().any(|process| process.pid == pid);
        workers =
            roots.iter().filter(|pid| !would_stop(**pid)).map(|pid| Worker { pid: *pid, decider: None }).collect();
    }
    let follows = |found: &&Found<'_>| {
        found.process.handles(signal) && !found.process.is_reader && found.above == Above::default()
    };
    let beside = beside.iter().filter(follows).map(|found| found.process.pid);
    let followers =
        if has_sidekiq && signal.is_in(&STOPS) { passed.into_iter().chain(beside).collect() } else { Vec::new() };
    Recipients { between, workers, followers }
}

/// How the signal reaches the Sidekiq `worker` from an init whose first child is `root`.
#[must_use]
pub fn reach(processes: &[Process], root: i32, worker: i32, signal: Number) -> Reach {
    let found = recipients(processes, &[root], signal);
    let mut pid = worker;
    for _ in 0..DEPTH {
        match found.workers.iter().find(|found| found.pid == pid) {
            Some(Worker { decider: Some(shell), .. }) => return Reach::Trap(*shell),
            Some(_) if pid == worker => return Reach::Direct,
            Some(_) => return Reach::Through(pid),
            None => match processes.iter().find(|process| process.pid == pid) {
                Some(process) => pid = process.parent,
                None => break,
            },
        }
    }
    Reach::None
}

struct Search<'a> {
    processes: &'a [Process],
    signal: Number,
    between: Vec<i32>,
    /// Programs that handle the signal, and have a Sidekiq below that receives it in their place.
    passed: Vec<i32>,
    /// The processes directly below wrappers.
    found: Vec<Found<'a>>,
}

struct Found<'a> {
    process: &'a Process,
    /// It is a Sidekiq, or has Sidekiqs below.
    has_sidekiq: bool,
    above: Above,
}

/// What is above a process.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Above {
    /// A shell whose trap decides.
    decider: Option<i32>,
    /// A program that follows. It knows best what else below it to stop.
    has_follower: bool,
}

impl<'a> Search<'a> {
    fn descend(&mut self, process: &'a Process, above: Above, depth: usize) {
        let handles = process.handles(self.signal);
        let is_known = is_wrapper(process.program);
        let sidekiqs = if is_known || process.is_sidekiq { Vec::new() } else { self.sidekiqs_below(process.pid) };
        if !is_known && !self.leads_on(process, &sidekiqs) {
            let has_sidekiq = process.is_sidekiq || !sidekiqs.is_empty();
            self.found.push(Found { process, has_sidekiq, above });
            return;
        }
        let has_trap = process.program == Program::Shell && handles;
        // CONT harms no process, and a shell that somebody has stopped would not see its worker end.
        if has_trap || self.signal.is_in(&[Signal::SIGCONT]) {
            self.between.push(process.pid);
        }
        let follows = !is_known && handles;
        if follows && above == Above::default() {
            self.passed.push(process.pid);
        }
        for child in children(self.processes, process.pid).filter(|_| depth > 0) {
            let decides = has_trap && shell_traps::run_at_once(process.for_traps(), child.for_traps());
            let decider = above.decider.or(decides.then_some(process.pid));
            self.descend(child, Above { decider, has_follower: above.has_follower || follows }, depth - 1);
        }
    }

    /// Whether those Sidekiqs below a program receive the signal in its place. A program that does not handle it
    /// would die of it, or stop; one that supervises services stops them itself, and would restart them.
    fn leads_on(&self, process: &Process, sidekiqs: &[&Process]) -> bool {
        match sidekiqs {
            [] => false,
            _ if process.program.keeps_services() => false,
            _ if !process.handles(self.signal) => true,
            [sidekiq] => self.signal.is_in(&SIDEKIQS) && sidekiq.handles(self.signal),
            _ => false,
        }
    }

    fn sidekiqs_below(&self, pid: i32) -> Vec<&'a Process> {
        let mut found = Vec::new();
        sidekiqs_below(self.processes, pid, DEPTH, &mut found);
        found
    }
}

/// The Sidekiqs below a process, but none below those: a swarm's parent signals its children itself.
fn sidekiqs_below<'a>(processes: &'a [Process], pid: i32, depth: usize, found: &mut Vec<&'a Process>) {
    for child in children(processes, pid).filter(|_| depth > 0) {
        if child.is_sidekiq {
            found.push(child);
        } else {
            sidekiqs_below(processes, child.pid, depth - 1, found);
        }
    }
}

/// The topmost Sidekiqs below a process, by pid.
#[must_use]
pub fn sidekiqs(processes: &[Process], above: i32) -> Vec<i32> {
    let mut found = Vec::new();
    sidekiqs_below(processes, above, DEPTH, &mut found);
    found.into_iter().map(|process| process.pid).collect()
}

fn children(processes: &[Process], parent: i32) -> impl Iterator<Item = &Process> {
    processes.iter().filter(move |process| process.parent == parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: u64 = 1 << 14;
    const TSTP: u64 = 1 << 19;
    const INT: u64 = 1 << 1;
    const QUIT: u64 = 1 << 2;
    const HUP: u64 = 1;

    fn process(pid: i32, parent: i32, program: Program, handled: u64) -> Process {
        Process { pid, parent, program, is_sidekiq: false, is_reader: false, handled, ignored: 0 }
    }

    fn shell(pid: i32, parent: i32, trapped: u64) -> Process {
        process(pid, parent, Program::Shell, trapped)
    }

    fn other(pid: i32, parent: i32, handled: u64) -> Process {
        process(pid, parent, Program::Other, handled)
    }

    fn sidekiq(pid: i32, parent: i32) -> Process {
        Process { is_sidekiq: true, ..other(pid, parent, TERM | INT | TSTP) }
    }

    fn behind(process: Process) -> Process {
        Process { ignored: QUIT | INT & !process.handled, ..process }
    }

    fn bash(pid: i32, parent: i32, trapped: u64) -> Process {
        Process { ignored: QUIT, ..shell(pid, parent, trapped) }
    }

    fn with_job_control(shell: Process) -> Process {
        Process { ignored: TSTP | 1 << (Signal::SIGTTOU as i32 - 1), ..shell }
    }

    fn reader(process: Process) -> Process {
        Process { is_reader: true, ..process }
    }

    #[test]
    fn nothing_is_suspended() {
        let alone = [other(2, 1, TERM)];
        for (signal, expected) in [(Signal::SIGTSTP, vec![]), (Signal::SIGTERM, vec![2])] {
            let mut found = recipients(&alone, &[2], signal.into());
            found.spare_from_suspension(&alone, signal.into());
            assert_eq!(found.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>(), expected, "{signal}");
        }
        let mut found = recipients(&[sidekiq(2, 1)], &[2], Signal::SIGTSTP.into());
        found.spare_from_suspension(&[sidekiq(2, 1)], Signal::SIGTSTP.into());
        assert_eq!(found.workers.len(), 1, "it handles the signal");
    }

    /// Wrappers, workers that are signalled, and workers that are not.
    type Expected<'a> = (&'a [i32], &'a [i32], &'a [i32]);

    #[track_caller]
    fn check(processes: &[Process], signal: Signal, (between, told, untold): Expected) -> Vec<i32> {
        let found = recipients(processes, &[2], signal.into());
        let workers = |is_told| {
            let workers = found.workers.iter().filter(move |worker| worker.decider.is_none() == is_told);
            workers.map(|worker| worker.pid).collect::<Vec<_>>()
        };
        assert_eq!(found.between, between, "between");
        assert_eq!(workers(true), told, "told");
        assert_eq!(workers(false), untold, "not told");
        found.followers
    }

    #[test]
    fn the_worker_wherever_it_is() {
        use Signal::{SIGCONT, SIGTERM, SIGTSTP};
        let none = &[][..];
        let table: &[(&str, &[Process], Signal, Expected)] = &[
            ("first child", &[sidekiq(2, 1)], SIGTERM, (none, &[2], none)),
            ("first child that handles nothing", &[other(2, 1, 0)], SIGTSTP, (none, &[2], none)),
            ("below a shell", &[shell(2, 1, 0), sidekiq(3, 2)], SIGTERM, (none, &[3], none)),
            ("TSTP below a shell", &[shell(2, 1, 0), sidekiq(3, 2)], SIGTSTP, (none, &[3], none)),
            ("CONT for all", &[shell(2, 1, 0), sidekiq(3, 2)], SIGCONT, (&[2], &[3], none)),
            (
                "below two shells and timeout",
                &[shell(2, 1, 0), shell(3, 2, 0), process(4, 3, Program::Timeout, TERM), sidekiq(5, 4)],
                SIGTERM,
                (none, &[5], none),
            ),
            (
                "below tini",
                &[process(2, 1, Program::Tini, 0), shell(3, 2, 0), sidekiq(4, 3)],
                SIGTERM,
                (none, &[4], none),
            ),
            ("a pipeline", &[shell(2, 1, 0), sidekiq(3, 2), other(4, 2, 0)], SIGTERM, (none, &[3], none)),
            (
                "a pipeline, no Sidekiq",
                &[shell(2, 1, 0), other(3, 2, TERM), other(4, 2, 0)],
                SIGTERM,
                (none, &[3], none),
            ),
            ("nobody handles it", &[shell(2, 1, 0), other(3, 2, 0), other(4, 2, 0)], SIGTERM, (none, &[3, 4], none)),
            ("two Sidekiqs", &[shell(2, 1, 0), sidekiq(3, 2), sidekiq(4, 2)], SIGTERM, (none, &[3, 4], none)),
            ("trap, foreground", &[shell(2, 1, TERM), sidekiq(3, 2)], SIGTERM, (&[2], &[3], none)),
            ("trap, background", &[shell(2, 1, TERM), behind(sidekiq(3, 2))], SIGTERM, (&[2], none, &[3])),
            (
                "trap, a shell in the background",
                &[shell(2, 1, TERM), behind(shell(3, 2, 0)), behind(sidekiq(4, 3))],
                SIGTERM,
                (&[2], none, &[4]),
            ),
            (
                "trap, a bash in the foreground with a background",
                &[bash(2, 1, TERM), bash(3, 2, 0), behind(sidekiq(4, 3))],
                SIGTERM,
                (&[2], &[4], none),
            ),
            ("trap and set -m", &[with_job_control(shell(2, 1, TERM)), sidekiq(3, 2)], SIGTERM, (&[2], none, &[3])),
            ("another's trap", &[shell(2, 1, TERM), behind(sidekiq(3, 2))], SIGTSTP, (none, &[3], none)),
            ("no trap, background", &[shell(2, 1, 0), behind(sidekiq(3, 2))], SIGTERM, (none, &[3], none)),
            ("a shell alone", &[shell(2, 1, 0)], SIGTERM, (none, &[2], none)),
            ("a shell alone is not stopped", &[shell(2, 1, 0)], SIGTSTP, (none, none, none)),
            ("a shell alone, trap", &[shell(2, 1, TERM)], SIGTERM, (&[2], none, none)),
            ("no /proc", &[], SIGTSTP, (none, &[2], none)),
            ("a wrapper that would be suspended", &[other(2, 1, TERM), sidekiq(3, 2)], SIGTSTP, (none, &[3], none)),
            ("a wrapper that would die", &[other(2, 1, 0), sidekiq(3, 2)], SIGTERM, (none, &[3], none)),
            ("a wrapper's own signal", &[other(2, 1, HUP), sidekiq(3, 2)], Signal::SIGHUP, (none, &[2], none)),
            (
                "a wrapper, and a Sidekiq that boots",
                &[other(2, 1, TERM | TSTP), Process { handled: TERM | INT, ..sidekiq(3, 2) }],
                SIGTSTP,
                (none, &[2], none),
            ),
            (
                "a supervisor of one",
                &[process(2, 1, Program::Runsvdir, TERM), process(3, 2, Program::Runsvdir, TERM), sidekiq(4, 3)],
                SIGTERM,
                (none, &[2], none),
            ),
            (
                "a program with several Sidekiqs",
                &[other(2, 1, TERM), shell(3, 2, 0), sidekiq(4, 3), sidekiq(5, 2)],
                SIGTERM,
                (none, &[2], none),
            ),
            (
                "several Sidekiqs below one that would die",
                &[other(2, 1, 0), sidekiq(3, 2), sidekiq(4, 2)],
                SIGTERM,
                (none, &[3, 4], none),
            ),
            (
                "a swarm is one",
                &[shell(2, 1, 0), sidekiq(3, 2), sidekiq(4, 3), sidekiq(5, 3)],
                SIGTERM,
                (none, &[3], none),
            ),
            ("not ours", &[shell(2, 1, 0), sidekiq(3, 2), sidekiq(9, 1)], SIGTERM, (none, &[3], none)),
            ("a circle", &[shell(2, 3, 0), shell(3, 2, 0)], SIGTERM, (none, &[2], none)),
        ];
        for (what, processes, signal, expected) in table {
            println!("{what}");
            assert_eq!(check(processes, *signal, *expected), [0; 0], "followers");
        }
    }

    #[test]
    fn who_follows_the_worker() {
        use Signal::{SIGINT, SIGTERM, SIGTSTP};
        let none = &[][..];
        let su = || other(2, 1, TERM | INT);
        let web = |pid, parent| other(pid, parent, TERM | INT);
        type Row<'a> = (&'a str, &'a [Process], Signal, Expected<'a>, &'a [i32]);
        let table: &[Row<'_>] = &[
            ("su", &[su(), sidekiq(3, 2)], SIGTERM, (none, &[3], none), &[2]),
            ("su, INT", &[su(), sidekiq(3, 2)], SIGINT, (none, &[3], none), &[2]),
            ("su, TSTP", &[su(), sidekiq(3, 2)], SIGTSTP, (none, &[3], none), none),
            ("su and a shell", &[su(), shell(3, 2, 0), sidekiq(4, 3)], SIGTERM, (none, &[4], none), &[2]),
            ("a shell and su", &[shell(2, 1, 0), other(3, 2, TERM), sidekiq(4, 3)], SIGTERM, (none, &[4], none), &[3]),
            ("sudo twice", &[su(), other(3, 2, TERM), sidekiq(4, 3)], SIGTERM, (none, &[4], none), &[2]),
            (
                "su and a shell with a trap, foreground",
                &[su(), shell(3, 2, TERM), sidekiq(4, 3)],
                SIGTERM,
                (&[3], &[4], none),
                &[2],
            ),
            (
                "su and a shell with a trap, background",
                &[su(), shell(3, 2, TERM), behind(sidekiq(4, 3))],
                SIGTERM,
                (&[3], none, &[4]),
                &[2],
            ),
            (
                "foreman",
                &[su(), shell(3, 2, 0), web(4, 3), shell(5, 2, 0), sidekiq(6, 5)],
                SIGTERM,
                (none, &[6], none),
                &[2],
            ),
            ("puma with a Sidekiq", &[web(2, 1), sidekiq(3, 2)], SIGTERM, (none, &[3], none), &[2]),
            (
                "sidekiq & puma",
                &[shell(2, 1, 0), behind(sidekiq(3, 2)), web(4, 2), other(5, 2, 0)],
                SIGTERM,
                (none, &[3], none),
                &[4],
            ),
            (
                "sidekiq & puma, TSTP",
                &[shell(2, 1, 0), behind(sidekiq(3, 2)), other(4, 2, TSTP)],
                SIGTSTP,
                (none, &[3], none),
                none,
            ),
            (
                "sidekiq | svlogd",
                &[shell(2, 1, 0), sidekiq(3, 2), reader(web(4, 2))],
                SIGTERM,
                (none, &[3], none),
                none,
            ),
            (
                "a trap decides for all in the background",
                &[shell(2, 1, TERM), behind(sidekiq(3, 2)), behind(web(4, 2))],
                SIGTERM,
                (&[2], none, &[3]),
                none,
            ),
            ("no Sidekiq", &[shell(2, 1, 0), web(3, 2), other(4, 2, 0)], SIGTERM, (none, &[3], none), none),
        ];
        for (what, processes, signal, expected, followers) in table {
            println!("{what}");
            assert_eq!(check(processes, *signal, *expected), *followers, "followers");
        }
    }

    #[test]
    fn how_a_signal_reaches_a_sidekiq() {
        let su = || other(2, 1, TERM);
        let table: &[(&str, &[Process], Reach)] = &[
            ("itself", &[sidekiq(9, 1), sidekiq(2, 1)], Reach::None),
            ("a shell", &[shell(2, 1, 0), sidekiq(9, 2)], Reach::Direct),
            ("su", &[su(), shell(3, 2, 0), sidekiq(9, 3)], Reach::Direct),
            ("a trap, foreground", &[shell(2, 1, TERM), sidekiq(9, 2)], Reach::Direct),
            ("a trap, background", &[shell(2, 1, TERM), behind(sidekiq(9, 2))], Reach::Trap(2)),
            ("a swarm", &[shell(2, 1, 0), sidekiq(3, 2), sidekiq(9, 3)], Reach::Through(3)),
            ("a supervisor of two", &[su(), shell(3, 2, 0), sidekiq(9, 3), sidekiq(8, 2)], Reach::Through(2)),
            ("not below", &[su(), sidekiq(3, 2), sidekiq(9, 1)], Reach::None),
            ("nothing seen", &[], Reach::None),
        ];
        for (what, processes, expected) in table {
            assert_eq!(reach(processes, 2, 9, Signal::SIGTERM.into()), *expected, "{what}");
        }
        assert_eq!(reach(&[sidekiq(2, 1)], 2, 2, Signal::SIGTERM.into()), Reach::Direct);
    }

    #[test]
    fn processes_below() {
        let processes = [shell(2, 1, 0), sidekiq(3, 2), sidekiq(4, 3), shell(5, 1, 0), sidekiq(6, 5), sidekiq(7, 0)];
        assert_eq!(sidekiqs(&processes, 1), [3, 6]);
    }
}
