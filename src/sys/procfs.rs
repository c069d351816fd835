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

use crate::model::program::{Program, Sidekiq};
use crate::model::recipients::{self};
use crate::model::shell_traps;
use crate::model::signal_path::Handling;
use crate::sys::{identity, proc_file};

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
        let status = proc_file::text(format!("/proc/{pid}/status")).ok()?;
        let mut snapshot = parse_status(&status)?;
        let stat = identity::stat(pid)?;
        snapshot.start_time = stat.start_time;
        snapshot.group = stat.group;
        snapshot.has_terminal = stat.has_terminal;
        let arguments = proc_file::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        snapshot.arguments = parse_arguments(&arguments);
        snapshot.executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
        snapshot.namespace = identity::pid_namespace(pid);
        Some(snapshot)
    }

    /// The calling process's pid in this /proc; `None` without /proc.
    #[must_use]
    pub fn caller() -> Option<i32> {
        fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
    }

    /// Its pid in its own PID namespace.
    #[must_use]
    pub fn own_pid(&self) -> i32 {
        self.pids.last().copied().unwrap_or(self.pid)
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
    pub(super) fn may_be_forking(&self) -> bool {
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
        let waited_for = if recipients::is_wrapper(program) { 0 } else { self.blocked.0 };
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
    fn a_transient_state_is_read_again_but_not_for_ever() {
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
}
