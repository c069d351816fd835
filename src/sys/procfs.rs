//! What /proc shows of a process: which one it is, what it does with signals, its parent and its children.
//!
//! `proc_pid_status(5)` has the parent, the user, the tracer and the signal masks, `proc_pid_cmdline(5)` and
//! `proc_pid_exe(5)` the program, `proc_pid_stat(5)` the start time.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;

use crate::model::companions;
use crate::model::program::{Program, Sidekiq};
use crate::model::recipients::{self, Reach};
use crate::model::shell_traps;
use crate::model::signal_path::{Asked, Handling, Link, Path};
use crate::model::wrappers;
use crate::sys::identity;
use crate::sys::supervisord;

/// One process, as /proc showed it at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The process id.
    pub pid: i32,
    /// Its process ids in all PID namespaces that it is in, from that of this /proc down to its own (`NSpid`).
    pub pids: Vec<i32>,
    /// Its parent; 0 for PID 1 of a namespace and for a process whose parent is outside of it.
    pub parent: i32,
    /// The command name: at most 15 bytes of the program's name, or a title that the process has set.
    pub name: String,
    /// The executable, where the caller may know it (another user's is hidden).
    pub executable: Option<PathBuf>,
    /// The command line; empty for a zombie.
    pub arguments: Vec<String>,
    /// The state's letter: R, S, D, T (stopped), t (stopped by a tracer), Z, X.
    pub state: char,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id, and the supplementary ones.
    pub groups: Vec<u32>,
    /// It may write despite file permissions (CAP_DAC_OVERRIDE).
    pub overrides_permissions: bool,
    /// It may trace any process, as far as Yama allows tracing at all (CAP_SYS_PTRACE).
    pub may_trace_all: bool,
    /// The number of its threads.
    pub threads: u32,
    /// The process that traces it; 0 for none.
    pub tracer: i32,
    /// Signals it handles (`SigCgt`).
    pub caught: Mask,
    /// Signals it ignores (`SigIgn`).
    pub ignored: Mask,
    /// Signals its main thread has blocked (`SigBlk`).
    pub blocked: Mask,
    /// When it started, in clock ticks since the boot.
    pub start_time: u64,
    /// Its process group.
    pub group: i32,
    /// It has a controlling terminal.
    pub has_terminal: bool,
    /// The inode of its PID namespace, where the caller may know it.
    pub namespace: Option<u64>,
}

/// A pipe, identified by its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipe(u64, u64);

impl Pipe {
    /// The pipe that is a process's standard input; `None` if that is not a pipe, or hidden.
    #[must_use]
    pub fn read_by(pid: i32) -> Option<Self> {
        let input = fs::metadata(format!("/proc/{pid}/fd/0")).ok()?;
        input.file_type().is_fifo().then(|| Self(input.dev(), input.ino()))
    }
}

/// A set of signals, as /proc writes it: bit n - 1 for signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mask(pub u64);

impl Mask {
    /// Whether the signal is in it.
    #[must_use]
    pub fn has(self, signal: Signal) -> bool {
        self.0 >> (signal as i32 - 1) & 1 == 1
    }
}

impl Snapshot {
    /// The process as it is now; `None` if there is none, or no /proc.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut snapshot = parse_status(&status)?;
        let stat = identity::stat(pid)?;
        snapshot.start_time = stat.start_time;
        snapshot.group = stat.group;
        snapshot.has_terminal = stat.has_terminal;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        snapshot.arguments = parse_arguments(&arguments);
        snapshot.executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
        snapshot.namespace = identity::pid_namespace(pid);
        Some(snapshot)
    }

    /// The same, but not during a fork, if that is over within some milliseconds: Ruby, for one, blocks every signal
    /// meanwhile.
    fn settled(pid: i32) -> Option<Self> {
        look_until_settled(|| Self::of(pid), |snapshot| snapshot.as_ref().is_some_and(Self::may_be_forking))
    }

    /// The calling process's pid in this /proc; `None` without /proc.
    #[must_use]
    pub fn caller() -> Option<i32> {
        fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
    }

    /// The process, its parent, and so on, up to PID 1 of its namespace or the last one that is visible.
    #[must_use]
    pub fn chain(pid: i32) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::new();
        let mut next = pid;
        // A parent may end and its pid may be reused meanwhile; no real chain is longer than this.
        while next > 0 && chain.len() < 64 {
            let Some(snapshot) = Self::settled(next) else { break };
            if let Some(below) = chain.last_mut().filter(|below| below.pids.len() > snapshot.pids.len()) {
                // The runtime that started a container is outside of it.
                below.parent = 0;
                break;
            }
            next = snapshot.parent;
            chain.push(snapshot);
        }
        chain
    }

    /// Its pid in its own PID namespace.
    #[must_use]
    pub fn own_pid(&self) -> i32 {
        self.pids.last().copied().unwrap_or(self.pid)
    }

    /// The processes of a [chain](Self::chain) as links.
    #[must_use]
    pub fn links(chain: &[Self]) -> Vec<Link> {
        let below = std::iter::once(None).chain(chain.iter().map(Some));
        chain.iter().zip(below).map(|(snapshot, below)| snapshot.link(below)).collect()
    }

    /// Whether it reads from a pipe that the other one writes its output to, as far as the caller may see.
    #[must_use]
    pub fn reads_from(&self, writer: &Self) -> bool {
        let pipe = |pid: i32, number: i32| {
            let file = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
            file.to_str().is_some_and(|name| name.starts_with("pipe:")).then_some(file)
        };
        let input = pipe(self.pid, 0);
        input.is_some() && [1, 2].into_iter().any(|number| pipe(writer.pid, number) == input)
    }

    /// The current signal path to a process.
    #[must_use]
    pub fn path(pid: i32) -> Path {
        let chain = Self::chain(pid);
        let hidden = chain.last().map(|top| top.parent).filter(|parent| *parent > 0).map(hidden_link);
        let mut links: Vec<Link> = Self::links(&chain).into_iter().chain(hidden).collect();
        if let Some(run) = links.iter().rposition(|link| link.program == Program::Run) {
            tell_by_run(&mut links, run);
        }
        Path::new(links)
    }

    /// Which processes end together with a Sidekiq that is stopped, in a sentence. `all`: every process; `told`:
    /// those that are stopped as well.
    #[must_use]
    pub fn companions(pid: i32, all: &[Self], told: &[i32]) -> Option<String> {
        let chain = Self::chain(pid);
        let (sidekiq, above) = chain.split_first()?;
        let is_beside = |other: &&Self| {
            above.iter().any(|ancestor| ancestor.pid == other.parent)
                && !chain.iter().any(|link| link.pid == other.pid)
                && !told.contains(&other.pid)
                && other.program() != Program::Relay
                && !other.reads_from(sidekiq)
        };
        let others = all.iter().filter(is_beside).map(|other| format!("{} (pid {})", other.name, other.pid));
        companions::warning(&Self::links(&chain), &others.collect::<Vec<_>>())
    }

    /// The process as a link of a path; `below` is the next one towards Sidekiq.
    #[must_use]
    pub fn link(&self, below: Option<&Self>) -> Link {
        let program = self.program();
        // With `set -m` a script's shell ignores the first two as well.
        let is_interactive = self.ignored.has(Signal::SIGTSTP)
            && self.ignored.has(Signal::SIGTTOU)
            && self.handling(Signal::SIGTERM) != Handling::Default;
        let is_relay = |tracer: &Self| tracer.program() == Program::Relay;
        let timeout_kill = (program == Program::S6Supervise)
            .then(|| fs::read_to_string(format!("/proc/{}/cwd/timeout-kill", self.pid)).ok())
            .flatten();
        Link {
            pid: self.pid,
            program,
            name: self.name.clone(),
            arguments: self.arguments.clone(),
            is_first: self.parent == 0,
            is_pid1: self.own_pid() == 1,
            term: self.handling(Signal::SIGTERM),
            tstp: self.handling(Signal::SIGTSTP),
            is_interactive: program == Program::Shell && is_interactive,
            has_terminal: self.has_terminal,
            group: self.group,
            variables: self.variables(program, below),
            kills_after: match (program, below) {
                (Program::Supervisord, Some(below)) => supervisord::kills_after(self.pid, &self.arguments, below.pid),
                _ => wrappers::kills_after(program, &self.arguments, timeout_kill.as_deref()),
            },
            is_machines: self.pid == 1 && identity::is_in_first_namespace(),
            told_by_run: Vec::new(),
            is_free: below.is_some_and(|below| shell_traps::run_at_once(self.for_traps(), below.for_traps())),
            threads: self.threads,
            is_relayed: self.tracer != 0 && Self::of(self.tracer).as_ref().is_some_and(is_relay),
        }
    }

    /// The variables that configure an init. Another user's cannot be read, but its child has usually inherited them.
    fn variables(&self, program: Program, below: Option<&Self>) -> Vec<String> {
        if !matches!(program, Program::Tini | Program::DumbInit) {
            return Vec::new();
        }
        let environment = |pid| fs::read(format!("/proc/{pid}/environ")).ok();
        let bytes = environment(self.pid).or_else(|| environment(below?.pid)).unwrap_or_default();
        let variables = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let counts = |variable: &str| ["TINI_", "DUMB_INIT_"].into_iter().any(|init| variable.starts_with(init));
        variables.filter(|variable| counts(variable)).map(std::borrow::Cow::into_owned).collect()
    }

    /// What its main thread does with a signal.
    #[must_use]
    pub fn handling(&self, signal: Signal) -> Handling {
        match signal {
            signal if self.blocked.has(signal) && !self.is_forking() => Handling::Blocked,
            signal if self.ignored.has(signal) => Handling::Ignored,
            signal if self.caught.has(signal) => Handling::Handled,
            _ => Handling::Default,
        }
    }

    /// A shell and timeout(1) block signals while they fork (dash all of them, bash TERM too), and on a busy machine
    /// the child may have run far before its parent unblocks them. The parent is running at that time, or waits for
    /// its child's exec (vfork(2)); a process that blocks signals permanently is seen asleep.
    fn is_forking(&self) -> bool {
        self.is_awake() && matches!(self.program(), Program::Shell | Program::Timeout)
    }

    /// An init that takes TERM with sigwait(3) looks the same for a moment after a signal has woken it.
    fn may_be_forking(&self) -> bool {
        self.is_awake() && self.blocked.has(Signal::SIGTERM)
    }

    /// It is running, or waits for something that nothing can interrupt.
    fn is_awake(&self) -> bool {
        matches!(self.state, 'R' | 'D')
    }

    /// Every process that is visible now.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Self::of).collect()
    }

    /// Every process that is visible now and has not ended.
    #[must_use]
    pub fn living() -> Vec<Self> {
        Self::all().into_iter().filter(|snapshot| !snapshot.has_ended()).collect()
    }

    /// What kind of program it is.
    #[must_use]
    pub fn program(&self) -> Program {
        Program::of(&self.name, self.executable.as_deref(), &self.arguments)
    }

    /// What determines when a shell runs a trap.
    #[must_use]
    pub fn for_traps(&self) -> shell_traps::Process {
        shell_traps::Process { program: self.program(), ignored: self.ignored.0 }
    }

    /// What determines which processes an init signals. `input` is the pipe that the init itself reads, if it does.
    #[must_use]
    pub fn for_recipients(&self, input: Option<Pipe>) -> recipients::Process {
        let program = self.program();
        // A shell blocks signals only for a moment; any other program that blocks a signal waits for it (sigwait(3),
        // signalfd(2)).
        let waited_for = if recipients::stands_between(program) { 0 } else { self.blocked.0 };
        recipients::Process {
            pid: self.pid,
            parent: self.parent,
            program,
            is_sidekiq: self.sidekiq().is_some(),
            is_reader: Pipe::read_by(self.pid).is_some_and(|pipe| Some(pipe) != input),
            handled: self.caught.0 | waited_for,
            ignored: self.ignored.0,
        }
    }

    /// Whether it is a Sidekiq, and whether it has started.
    #[must_use]
    pub fn sidekiq(&self) -> Option<Sidekiq> {
        Sidekiq::of(&self.name, self.executable.as_deref(), &self.arguments)
    }

    /// Whether it has ended and is a zombie.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Looks again while the result is about to change; for some 20 ms at most, because Sidekiq's own hooks wait
/// meanwhile.
pub fn look_until_settled<T>(mut look: impl FnMut() -> T, is_passing: impl Fn(&T) -> bool) -> T {
    let mut seen = look();
    for _ in 0..20 {
        if !is_passing(&seen) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
        seen = look();
    }
    seen
}

/// Sets which signals `run` sends to each link, by the rule that `run` itself uses.
fn tell_by_run(links: &mut [Link], run: usize) {
    let pid = |index: usize| links.get(index).map(|link| link.pid);
    // It may be the path to `run` itself.
    let (Some(worker), Some(root)) = (pid(0), run.checked_sub(1).and_then(pid)) else { return };
    let input = links.get(run).and_then(|run| Pipe::read_by(run.pid));
    let all: Vec<recipients::Process> =
        Snapshot::living().iter().map(|snapshot| snapshot.for_recipients(input)).collect();
    for (asked, signal) in [(Asked::Stop, Signal::SIGTERM), (Asked::Quiet, Signal::SIGTSTP)] {
        let told = match recipients::reach(&all, root, worker, signal.into()) {
            Reach::Direct => worker,
            Reach::Trap(pid) | Reach::Through(pid) => pid,
            Reach::None => continue,
        };
        for link in links.iter_mut().filter(|link| link.pid == told) {
            link.told_by_run.push(asked);
        }
    }
}

/// A process that /proc hides (hidepid). What it does with signals is unknown.
fn hidden_link(pid: i32) -> Link {
    Link {
        pid,
        name: "a hidden process".to_owned(),
        is_first: pid == 1,
        is_pid1: pid == 1,
        term: Handling::Handled,
        tstp: Handling::Handled,
        is_machines: pid == 1 && identity::is_in_first_namespace(),
        ..Link::default()
    }
}

fn parse_status(text: &str) -> Option<Snapshot> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let mask = |name| field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).map(Mask);
    let numbers = |name| field(name).unwrap_or_default().split_ascii_whitespace();
    let group = numbers("Gid").nth(1);
    // By its number (capabilities(7)).
    let is_capable = |number: u32| mask("CapEff").is_some_and(|Mask(capabilities)| capabilities >> number & 1 == 1);
    Some(Snapshot {
        pids: numbers("NSpid").filter_map(|pid| pid.parse().ok()).collect(),
        groups: group.into_iter().chain(numbers("Groups")).filter_map(|group| group.parse().ok()).collect(),
        overrides_permissions: is_capable(1),
        may_trace_all: is_capable(19),
        pid: field("Pid")?.parse().ok()?,
        parent: field("PPid")?.parse().ok()?,
        name: field("Name")?.to_owned(),
        state: field("State")?.chars().next()?,
        uid: field("Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
        threads: field("Threads")?.parse().ok()?,
        tracer: field("TracerPid")?.parse().ok()?,
        caught: mask("SigCgt")?,
        ignored: mask("SigIgn")?,
        blocked: mask("SigBlk")?,
        ..Snapshot::default()
    })
}

/// Each argument ends with a NUL; a process that has overwritten its own (as Sidekiq does, to show how busy it is)
/// leaves one long text, padded.
fn parse_arguments(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\0').split('\0').filter(|_| !bytes.is_empty()).map(str::to_owned).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;

    const STATUS: &str = "Name:\tsh (x)\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nPid:\t7\nPPid:\t1\nTracerPid:\t0\n\
        Uid:\t0\t1000\t0\t0\nGid:\t0\t50\t0\t0\nGroups:\t4 20 \nNSpid:\t4711\t7\nCapEff:\t0000000000000002\nThreads:\t1\nSigPnd:\t0000000000000000\nSigBlk:\t0000000000080000\n\
        SigIgn:\t0000000000000004\nSigCgt:\t0000000000014002\n";

    #[test]
    fn status_files() {
        let snapshot = parse_status(STATUS).unwrap();
        assert_eq!((snapshot.pid, snapshot.parent, snapshot.uid, snapshot.threads), (7, 1, 1000, 1));
        assert_eq!((snapshot.name.as_str(), snapshot.state), ("sh (x)", 'S'));
        assert_eq!((snapshot.own_pid(), snapshot.groups.as_slice()), (7, &[50, 4, 20][..]));
        assert!(snapshot.overrides_permissions);
        assert!(snapshot.caught.has(Signal::SIGTERM) && snapshot.caught.has(Signal::SIGCHLD));
        assert!(!snapshot.caught.has(Signal::SIGTSTP));
        assert!(snapshot.ignored.has(Signal::SIGQUIT) && snapshot.blocked.has(Signal::SIGTSTP));
        assert_eq!(parse_status(&STATUS.replace("SigCgt", "Else")), None);
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn what_is_about_to_pass_is_looked_at_again_but_not_for_ever() {
        for (passes_after, looks) in [(0, 1), (3, 4), (usize::MAX, 21)] {
            let mut count = 0;
            let look = || {
                count += 1;
                count
            };
            assert_eq!(look_until_settled(look, |seen| *seen <= passes_after), looks);
        }
        let process = |state, blocked| Snapshot { state, blocked: Mask(blocked), ..Snapshot::default() };
        let term = 1 << (Signal::SIGTERM as i32 - 1);
        for (snapshot, expected) in [
            (process('R', term), true),
            (process('D', u64::MAX), true),
            (process('R', !term), false),
            (process('S', u64::MAX), false),
            (process('t', u64::MAX), false),
        ] {
            assert_eq!(snapshot.may_be_forking(), expected, "{snapshot:?}");
        }
    }

    #[test]
    fn a_shell_that_forks_blocks_signals_only_for_now() {
        let blocks = |name: &str, state| Snapshot {
            name: name.to_owned(),
            state,
            blocked: Mask(u64::MAX),
            caught: Mask(1 << (Signal::SIGTERM as i32 - 1)),
            ..Snapshot::default()
        };
        for (name, state, term, tstp) in [
            ("dash", 'R', Handling::Handled, Handling::Default),
            ("bash", 'D', Handling::Handled, Handling::Default),
            ("timeout", 'R', Handling::Handled, Handling::Default),
            ("dash", 'S', Handling::Blocked, Handling::Blocked),
            // An init that takes its signals with sigwait(3) always blocks them.
            ("init-of-ours", 'R', Handling::Blocked, Handling::Blocked),
        ] {
            let link = blocks(name, state).link(None);
            assert_eq!((link.term, link.tstp), (term, tstp), "{name} {state}");
        }
    }

    #[test]
    fn shells_and_what_they_have_started() {
        let table = [
            ("bash", "sleep 60; true", false),
            ("bash", "sleep 60 & wait", true),
            ("dash", "sleep 60; true", false),
            ("dash", "sleep 60 & wait", true),
            // Everything below a shell that was started with & ignores both.
            ("bash", "(trap '' INT QUIT; exec bash -c 'sleep 60; true')", false),
        ];
        for (shell, script, is_free) in table {
            // The tests themselves may have been started with &, and the shells below inherit that.
            let started = Command::new("env").args(["--default-signal=INT,QUIT", shell, "-c", script]).spawn();
            let Ok(mut child) = started else { continue };
            let id = child.id();
            let of =
                |name: &str| Snapshot::all().into_iter().find(|process| process.name == name && is_below(process, id));
            let sleep = loop {
                if let Some(sleep) = of("sleep") {
                    break Some(sleep);
                }
                if child.try_wait().unwrap().is_some() {
                    break None; // that shell is not here
                }
            };
            let Some(sleep) = sleep else { continue };
            let parent = Snapshot::of(sleep.parent).unwrap();
            assert_eq!(parent.link(Some(&sleep)).is_free, is_free, "{shell} {script}");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleep.pid), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
        }
    }

    fn is_below(process: &Snapshot, pid: u32) -> bool {
        Snapshot::chain(process.pid).iter().any(|above| u32::try_from(above.pid) == Ok(pid))
    }

    #[test]
    fn command_lines() {
        for (bytes, expected) in [
            (&b""[..], &[][..]),
            (b"sh\0-c\0a b\0", &["sh", "-c", "a b"]),
            (b"sidekiq 8.1.7 app [0 of 5 busy]\0\0\0", &["sidekiq 8.1.7 app [0 of 5 busy]"]),
            (b"sh\0-c\0\0x\0", &["sh", "-c", "", "x"]),
        ] {
            assert_eq!(parse_arguments(bytes), expected);
        }
    }

    #[test]
    fn a_chain_goes_from_a_process_to_its_ancestors() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let chain = Snapshot::chain(pid);
        assert_eq!(chain[0].pid, pid);
        assert_eq!(chain[1].pid, nix::unistd::getpid().as_raw());
        assert_eq!(chain[1].pid, chain[0].parent);
        assert!(Snapshot::all().iter().any(|snapshot| snapshot.pid == pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Snapshot::of(pid), None);
    }
}
