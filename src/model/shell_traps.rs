//! When a shell runs a trap: at once if it waits in `wait` for a background command, otherwise only after its
//! foreground command has ended (POSIX, sh, 2.11).
//!
//! A trap that runs at once may be a careful shutdown in several steps, so the shell decides alone: the relay and
//! `run` forward nothing past it, and the doctor cannot know what it does.
//!
//! How to tell: a command that a shell without job control has started with `&` ignores INT and QUIT (POSIX, sh,
//! 2.9.3.1 and 2.11), and what it starts inherits that. A program may have set a handler for INT since, as Sidekiq
//! does, and bash always ignores QUIT, so for a shell only both together are conclusive.

#[cfg(target_os = "linux")]
use nix::libc;
use nix::libc::{SIGINT, SIGQUIT, SIGTSTP, SIGTTOU};

use crate::model::program::Program;

/// What the rule needs to know about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which kind of program it is.
    pub program: Program,
    /// The signals it ignores: bit n - 1 for signal n.
    pub ignored: u64,
}

/// Whether a shell runs a trap at once while `child` runs, its next process on the way to the worker.
#[must_use]
pub fn run_at_once(shell: Process, child: Process) -> bool {
    has_job_control(shell) || (is_in_background(child) && !is_in_background(shell))
}

/// Whether a shell that makes this system call is only waiting, as it is while a trap is deferred until its
/// foreground command has ended: it returns from the handler, and waits again.
#[cfg(target_os = "linux")]
#[must_use]
pub fn only_waits(call: i64) -> bool {
    matches!(
        call,
        libc::SYS_rt_sigreturn
            | libc::SYS_rt_sigprocmask
            | libc::SYS_rt_sigaction
            | libc::SYS_rt_sigsuspend
            | libc::SYS_wait4
            | libc::SYS_waitid
            | libc::SYS_restart_syscall
            | libc::SYS_brk
            | libc::SYS_mmap
            | libc::SYS_munmap
    )
}

/// With `set -m` background and foreground look the same, and the shell is assumed to decide.
fn has_job_control(shell: Process) -> bool {
    ignores(shell, SIGTSTP) && ignores(shell, SIGTTOU)
}

/// It was started with `&`, or is below such a process.
fn is_in_background(process: Process) -> bool {
    ignores(process, SIGQUIT) && (ignores(process, SIGINT) || process.program != Program::Shell)
}

fn ignores(process: Process, signal: i32) -> bool {
    process.ignored >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace shows them for dash, bash, busybox, zsh and ksh.
    #[cfg(target_os = "linux")]
    #[test]
    fn system_calls_while_a_trap_is_deferred_and_while_it_runs() {
        use libc::{SYS_clone, SYS_dup3, SYS_execve, SYS_exit_group, SYS_fcntl, SYS_kill, SYS_openat, SYS_write};
        let waits = [libc::SYS_rt_sigreturn, libc::SYS_rt_sigprocmask, libc::SYS_wait4, libc::SYS_rt_sigsuspend];
        let acts = [SYS_clone, SYS_dup3, SYS_execve, SYS_exit_group, SYS_fcntl, SYS_kill, SYS_openat, SYS_write];
        assert!(waits.into_iter().all(only_waits));
        assert!(!acts.into_iter().any(only_waits));
    }

    #[test]
    fn in_the_background_and_in_the_foreground() {
        let mask = |signals: &[i32]| signals.iter().fold(0, |mask, signal| mask | 1_u64 << (signal - 1));
        let process = |program, signals: &[i32]| Process { program, ignored: mask(signals) };
        let shell = |signals: &[i32]| process(Program::Shell, signals);
        let sidekiq = |signals: &[i32]| process(Program::Other, signals);
        let table = [
            ("foreground", shell(&[]), sidekiq(&[]), false),
            ("sidekiq &", shell(&[]), sidekiq(&[SIGQUIT]), true),
            ("sleep &", shell(&[]), sidekiq(&[SIGQUIT, SIGINT]), true),
            ("dash -c '…' &", shell(&[]), shell(&[SIGQUIT, SIGINT]), true),
            ("bash in the foreground", shell(&[SIGQUIT]), shell(&[SIGQUIT]), false),
            ("bash, sidekiq &", shell(&[SIGQUIT]), sidekiq(&[SIGQUIT]), true),
            // Started in the background, it has Sidekiq in its own foreground, as far as is visible.
            ("(trap …; sidekiq) &", shell(&[SIGQUIT, SIGINT]), sidekiq(&[SIGQUIT]), false),
            ("set -m", shell(&[SIGTSTP, SIGTTOU]), sidekiq(&[]), true),
        ];
        for (what, shell, child, expected) in table {
            assert_eq!(run_at_once(shell, child), expected, "{what}");
        }
    }
}
