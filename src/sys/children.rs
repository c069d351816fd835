//! What an init needs of the kernel: it receives every signal, starts its child, reaps, and hands over the terminal.
//! Linux only.

#![allow(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::iter;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{AccessFlags, Pid, access, getpgrp, tcgetpgrp, tcsetpgrp};

use crate::model::signal_map::Number;

/// Signals that are left alone: those that a fault of this process raises, and PIPE, which every broken pipe raises.
const LEFT: [Signal; 8] = [
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGPIPE,
];

/// Every signal that is sent to this process, one after the other (`signalfd(2)`).
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Takes over the signals: blocked, they have no effect on this process. Resets inherited dispositions to the
    /// default, for this process and its children: with CHLD ignored nothing could be reaped, and a shell cannot trap
    /// what was ignored when it started (POSIX, sh, trap). An ignored HUP stays ignored, because that is what
    /// `nohup(1)` is for.
    ///
    /// # Errors
    /// The system's error.
    pub fn block() -> nix::Result<Self> {
        let mut taken = SigSet::all();
        LEFT.into_iter().for_each(|signal| taken.remove(signal));
        taken.thread_set_mask()?;
        let left = LEFT.map(|signal| signal as libc::c_int);
        for number in (1..=libc::SIGRTMAX()).filter(|number| !left.contains(number)) {
            // SAFETY: SIG_DFL is a valid disposition. The system refuses KILL, STOP and the C library's own signals.
            let found = unsafe { libc::signal(number, libc::SIG_DFL) };
            if number == libc::SIGHUP && found == libc::SIG_IGN {
                // SAFETY: SIG_IGN is a valid disposition, and the one found here.
                unsafe { libc::signal(number, libc::SIG_IGN) };
            }
        }
        SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// The next signal that has arrived, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<Number> {
        let signal = self.0.read_signal().ok()??;
        i32::try_from(signal.ssi_signo).ok().and_then(Number::new)
    }

    /// Sleeps until a signal arrives, one of the `ends` becomes readable, or the time has come; without a time,
    /// without limit.
    pub fn sleep<'a, E: AsFd + 'a>(&'a self, ends: impl Iterator<Item = &'a E>, until: Option<Instant>) {
        let descriptors = ends.map(AsFd::as_fd).chain([self.0.as_fd()]);
        let mut descriptors: Vec<PollFd> = descriptors.map(|end| PollFd::new(end, PollFlags::POLLIN)).collect();
        // Rounded up: waking a moment early would mean sleeping again.
        let milliseconds = until.map(|until| until.saturating_duration_since(Instant::now()).as_millis() + 1);
        let timeout =
            milliseconds.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        // Whatever wakes it, even an error, the caller checks everything.
        let _ = poll(&mut descriptors, timeout);
    }
}

/// What has become of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has ended and is reaped. The code follows the shells' convention: 128 + n for signal n.
    Ended(i32, u8),
    /// A signal has stopped it.
    Stopped(i32, Number),
}

/// The next child that has ended or stopped since the last call, if there is one.
#[must_use]
pub fn reap() -> Option<Change> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes. nix's waitpid does not support real-time signals.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
    if pid <= 0 {
        return None;
    }
    if libc::WIFSTOPPED(status) {
        return Number::new(libc::WSTOPSIG(status)).map(|signal| Change::Stopped(pid, signal));
    }
    let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Some(Change::Ended(pid, u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Whether there is any child, even one that has ended and is not reaped.
#[must_use]
pub fn exist() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(Errno::ECHILD)
}

/// Sends a signal to a process, or with a negative pid to a process group.
///
/// # Errors
/// The system's error; ESRCH if there is no such process.
pub fn send(pid: i32, signal: Number) -> nix::Result<()> {
    // SAFETY: two integers. nix's kill does not support real-time signals.
    Errno::result(unsafe { libc::kill(pid, signal.raw()) }).map(drop)
}

/// Starts a command in its own process group, with no signal blocked, and in the terminal's foreground if this
/// process is there. A script without a `#!` line is run by sh, as execvp(3) of glibc does; that of musl does not.
///
/// # Errors
/// The command could not be started.
pub fn start(program: &OsStr, arguments: &[OsString]) -> io::Result<i32> {
    let started = spawn(program, arguments);
    let is_script = started.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOEXEC));
    match is_script.then(|| executable(program)).flatten() {
        Some(script) => {
            let arguments: Vec<OsString> = iter::once(script.into()).chain(arguments.iter().cloned()).collect();
            spawn(OsStr::new("/bin/sh"), &arguments)
        }
        None => started,
    }
}

fn spawn(program: &OsStr, arguments: &[OsString]) -> io::Result<i32> {
    let has_terminal = foreground() == Some(getpgrp().as_raw());
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    let prepare = move || {
        if has_terminal {
            // Allowed from the background because TTOU is blocked (tcsetpgrp(3)).
            lend_terminal(Pid::this().as_raw());
        }
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: `prepare` only makes system calls, and there is no other thread that could hold a lock it needs.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn()?;
    Ok(i32::try_from(child.id()).unwrap_or_default())
}

/// Whether this user may execute a program, looked up as the system does: by its path, or by its name in `$PATH`.
#[must_use]
pub fn is_executable(program: &OsStr) -> bool {
    executable(program).is_some()
}

fn executable(program: &OsStr) -> Option<PathBuf> {
    let may_execute = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(program)).filter(may_execute);
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&directories).map(|directory| directory.join(program)).find(may_execute)
}

/// The process group in the foreground of the terminal on standard input; `None` without a terminal of this session.
#[must_use]
pub fn foreground() -> Option<i32> {
    tcgetpgrp(io::stdin()).ok().map(Pid::as_raw)
}

/// Puts a process group into the terminal's foreground. Does nothing without a terminal of this session.
pub fn lend_terminal(group: i32) {
    let _ = tcsetpgrp(io::stdin(), Pid::from_raw(group));
}

/// Stops this process and its group as Ctrl-Z does, until a shell continues them. The kernel knows whether there is a
/// shell that could: without one nothing stops (an orphaned process group, setpgid(2); or PID 1).
pub fn stop_as_by_terminal() {
    let stop = SigSet::from(Signal::SIGTSTP);
    let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
    let _ = stop.thread_unblock();
    let _ = stop.thread_block();
}
