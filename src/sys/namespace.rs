//! A new PID namespace, in which a command line is PID 1, as in a container. Its `unsafe` code is here.

#![allow(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid, setsid};

const NO_DATA: Option<&Path> = None;

/// Takes the calling process, which must have one thread, to where its next child is PID 1. The process itself stays
/// outside of that PID namespace, but sees its /proc once [`start`] has mounted it. Its mounts are private from now
/// on.
///
/// # Errors
/// EPERM, ENOSPC and others: it is not allowed here (`unshare(2)`).
pub fn enter() -> io::Result<()> {
    let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    match unshare(flags) {
        Err(Errno::EPERM) => enter_as_user(flags)?,
        entered => entered?,
    }
    // Later mounts over it must be visible only here.
    mount(NO_DATA, "/proc", NO_DATA, MsFlags::MS_PRIVATE, NO_DATA)?;
    Ok(())
}

/// Users other than root may create a user namespace first, and keep their uid in it (`user_namespaces(7)`).
fn enter_as_user(flags: CloneFlags) -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(flags | CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Starts a command line as PID 1, with a fresh /proc and its own session. It has no input, and its output goes to
/// `output`. When the calling process ends, in whatever way, everything in the namespace is killed.
///
/// # Errors
/// There is no such command, or /proc may not be mounted.
pub fn start(command: &[OsString], environment: &[(&str, &OsStr)], output: &File) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let prepare = || {
        set_pdeathsig(Signal::SIGKILL)?;
        setsid()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, NO_DATA)?;
        Ok(())
    };
    // SAFETY: the calling process has one thread, so no other one can hold a lock, and `prepare` makes only system
    // calls.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
