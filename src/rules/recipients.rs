//! Who is given a signal that arrives at the init: the worker, wherever it stands below shells.
//!
//! From the first child down, shells, timeout and inits only stand between; what stands directly below them could be
//! the worker. Of several, the Sidekiqs are; without one, those that handle the signal; without one, all.
//!
//! A shell without a trap for the signal would die of it, or stop: it is given nothing, waits for the worker as always and
//! ends with it. A shell with a trap keeps its say, and is given the signal. The worker is given it as well, unless it runs
//! in the background of that shell, whose trap [runs at once](super::traps) then and decides. Should the shell end instead, its
//! worker is told to stop by the rule of the init's own end.

use nix::sys::signal::Signal;

use super::program::Program;
use super::rewrite::Number;
use super::traps;

/// What the rule wants to know of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// What kind of program it is.
    pub program: Program,
    /// Whether its command line [says so](says_sidekiq).
    pub is_sidekiq: bool,
    /// The signals it handles, or has blocked to wait for them; bit n - 1 for signal n.
    pub handled: u64,
    /// The signals it ignores.
    pub ignored: u64,
}

/// Who is given a signal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients {
    /// Processes between that are given it beside the worker.
    pub between: Vec<i32>,
    /// The workers.
    pub workers: Vec<Worker>,
}

/// A worker, and whether it is given the signal, or a shell that has it in the background decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The process id.
    pub pid: i32,
    /// Whether it is given the signal.
    pub is_told: bool,
}

/// Signals whose default action stops a process.
pub const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// No chain of processes is longer: /proc is not read in one moment, and a pid may be used again meanwhile.
const DEPTH: usize = 64;

/// Whether a command line is a Sidekiq's: the title that it gives itself, or a word that is a path to `sidekiq`.
#[must_use]
pub fn says_sidekiq(arguments: &[String]) -> bool {
    let title = arguments.first().and_then(|title| title.split(' ').next());
    let names = arguments.iter().filter_map(|argument| argument.rsplit('/').next()).chain(title);
    names.into_iter().any(|name| matches!(name, "sidekiq" | "sidekiqswarm"))
}

/// Whether a program only stands between: it waits for its command, and ends with it.
#[must_use]
pub fn stands_between(program: Program) -> bool {
    matches!(program, Program::Shell | Program::Timeout | Program::Run) || program.ends_with_first_child()
}

impl Process {
    /// Whether it has a handler for the signal, or waits for it.
    #[must_use]
    pub fn handles(&self, signal: Number) -> bool {
        has(self.handled, signal)
    }

    fn for_traps(&self) -> traps::Process {
        traps::Process { program: self.program, ignored: self.ignored }
    }
}

fn has(mask: u64, signal: Number) -> bool {
    mask >> (signal.raw() - 1) & 1 == 1
}

/// Who is given the signal, of those at and below `roots`.
#[must_use]
pub fn recipients(processes: &[Process], roots: &[i32], signal: Number) -> Recipients {
    let mut search = Search { processes, signal, between: Vec::new(), found: Vec::new() };
    for root in processes.iter().filter(|process| roots.contains(&process.pid)) {
        search.descend(root, false, DEPTH);
    }
    let Search { between, found, .. } = search;
    let is_one = |kind: fn(&Process, Number) -> bool| found.iter().any(|(process, _)| kind(process, signal));
    let kind: fn(&Process, Number) -> bool = if is_one(|process, _| process.is_sidekiq) {
        |process, _| process.is_sidekiq
    } else if is_one(Process::handles) {
        Process::handles
    } else {
        |_, _| true
    };
    let chosen = found.into_iter().filter(|(process, _)| kind(process, signal));
    let mut workers: Vec<Worker> = chosen
        .flat_map(|(process, shell_decides)| {
            let workers = in_place_of(processes, process, signal).into_iter();
            workers.map(move |worker| Worker { pid: worker.pid, is_told: !shell_decides })
        })
        .collect();
    // Nothing but shells, or no /proc: the roots themselves, unless they would only be stopped, and never go on.
    if workers.is_empty() && between.is_empty() {
        let would_stop = |pid: i32| signal.is_in(&STOPPING) && processes.iter().any(|process| process.pid == pid);
        workers =
            roots.iter().filter(|pid| !would_stop(**pid)).map(|pid| Worker { pid: *pid, is_told: true }).collect();
    }
    Recipients { between, workers }
}

struct Search<'a> {
    processes: &'a [Process],
    signal: Number,
    between: Vec<i32>,
    /// What stands directly below those between, and whether a shell above decides.
    found: Vec<(&'a Process, bool)>,
}

impl<'a> Search<'a> {
    fn descend(&mut self, process: &'a Process, shell_decides: bool, depth: usize) {
        if !stands_between(process.program) {
            self.found.push((process, shell_decides));
            return;
        }
        let has_trap = process.program == Program::Shell && process.handles(self.signal);
        // CONT harms nobody, and a shell that somebody has stopped would not see its worker end.
        if has_trap || self.signal.is_in(&[Signal::SIGCONT]) {
            self.between.push(process.pid);
        }
        for child in children(self.processes, process.pid).filter(|_| depth > 0) {
            let decides = has_trap && traps::run_at_once(process.for_traps(), child.for_traps());
            self.descend(child, shell_decides || decides, depth - 1);
        }
    }
}

/// A program around Sidekiq (sudo, foreman) that does nothing with the signal would die of it, or stop: then the Sidekiqs
/// below that do handle it are given it instead.
fn in_place_of<'a>(processes: &'a [Process], process: &'a Process, signal: Number) -> Vec<&'a Process> {
    let mut below = Vec::new();
    if !process.handles(signal) {
        sidekiqs_below(processes, process.pid, DEPTH, &mut below);
        below.retain(|sidekiq| sidekiq.handles(signal));
    }
    if below.is_empty() { vec![process] } else { below }
}

/// The Sidekiqs below a process, and none below those: a swarm's parent tells its children itself.
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

/// Every process below one.
#[must_use]
pub fn descendants(processes: &[Process], above: i32) -> Vec<i32> {
    let mut found = vec![above];
    let mut done = 0;
    while let Some(parent) = found.get(done).copied() {
        let below = children(processes, parent).map(|child| child.pid).filter(|pid| !found.contains(pid));
        let below: Vec<i32> = below.collect();
        found.extend(below);
        done += 1;
    }
    found.split_off(1)
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

    fn process(pid: i32, parent: i32, program: Program, handled: u64) -> Process {
        Process { pid, parent, program, is_sidekiq: false, handled, ignored: 0 }
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

    /// Those between, the workers that are told, and those that are not.
    type Expected<'a> = (&'a [i32], &'a [i32], &'a [i32]);

    #[track_caller]
    fn check(processes: &[Process], signal: Signal, (between, told, untold): Expected) {
        let found = recipients(processes, &[2], signal.into());
        let workers =
            |is_told| found.workers.iter().filter(move |worker| worker.is_told == is_told).map(|worker| worker.pid);
        assert_eq!(found.between, between, "between");
        assert_eq!(workers(true).collect::<Vec<_>>(), told, "told");
        assert_eq!(workers(false).collect::<Vec<_>>(), untold, "not told");
    }

    #[test]
    fn the_worker_wherever_it_stands() {
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
            ("a wrapper that handles it", &[other(2, 1, TERM), sidekiq(3, 2)], SIGTERM, (none, &[2], none)),
            ("a wrapper that would stop", &[other(2, 1, TERM), sidekiq(3, 2)], SIGTSTP, (none, &[3], none)),
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
            check(processes, *signal, *expected);
        }
    }

    #[test]
    fn what_stands_below() {
        let processes = [
            shell(2, 1, 0),
            sidekiq(3, 2),
            sidekiq(4, 3),
            shell(5, 1, 0),
            sidekiq(6, 5),
            sidekiq(7, 0),
            other(8, 8, 0),
        ];
        assert_eq!(sidekiqs(&processes, 1), [3, 6]);
        assert_eq!(descendants(&processes, 1), [2, 5, 3, 6, 4]);
        assert_eq!(descendants(&processes, 8), [0; 0]);
    }

    #[test]
    fn command_lines() {
        for (arguments, expected) in [
            (&["sidekiq 7.3.2 app [0 of 5 busy]"][..], true),
            (&["sidekiq"], true),
            (&["ruby", "/usr/bin/bundle", "exec", "sidekiq", "-C", "x.yml"], true),
            (&["/usr/bin/ruby", "/usr/local/bin/sidekiq"], true),
            (&["sidekiqswarm"], true),
            (&["tail", "-F", "log/sidekiq.log"], false),
            (&["puma 6.4 (tcp://0.0.0.0) [sidekiq]"], false),
            (&[], false),
        ] {
            let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            assert_eq!(says_sidekiq(&arguments), expected, "{arguments:?}");
        }
    }
}
