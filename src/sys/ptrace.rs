//! ptrace(2): how the relay takes part in the delivery of signals to other processes.
//!
//! nix does not support real-time signals and would fail on the first one that a traced shell gets, so signals are
//! plain numbers here.
//!
//! A process that dies of SIGKILL is released at once. One that is about to exit is stopped before it starts to
//! ([`Stop::Leaving`]): at that point a SIGKILL still ends it, while an exiting process drops it (`kernel/signal.c`,
//! `prepare_signal`).

#![allow(unsafe_code)]

use std::fs;
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use crate::model::trace_denied::{Call, Refusal};
use crate::sys::pidfd::PidFd;

/// Why a traced process has stopped, or that it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered; [`resume`] decides which one is.
    Signal(i32),
    /// A signal stopped it, as a shell's `kill -STOP` does; it needs [`listen`].
    Group,
    /// It enters this system call, which it was asked to report ([`Until::Call`]).
    Call(i64),
    /// It enters the system call that ends it. A SIGKILL still works.
    Leaving,
    /// It is exiting, and continues when it is resumed. No signal works any more.
    Exit,
    /// It dies of SIGKILL.
    Killed,
    /// It has become another program.
    Exec,
    /// Anything else that only wants to be resumed.
    Passing,
    /// It has ended, or is no longer traced.
    Ended,
}

/// How far a traced process runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its next signal, exec or end.
    Event,
    /// To its next system call, too.
    Call,
}

/// Starts to trace a process, which keeps running: all of its threads, because a signal may be delivered to any of
/// them, and those that it starts from now on.
///
/// # Errors
/// EPERM: it may not be traced, or already is. ESRCH: there is no such process.
pub fn seize(pid: i32) -> nix::Result<()> {
    let events = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACECLONE;
    let options = events | libc::PTRACE_O_TRACESYSGOOD;
    request(libc::PTRACE_SEIZE, pid, options)?;
    // A thread that is not traced yet may start another meanwhile.
    let mut seen = vec![pid];
    loop {
        let new: Vec<i32> = threads(pid).into_iter().filter(|thread| !seen.contains(thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for thread in &new {
            // It has ended, or was started by one that is traced.
            let _ = request(libc::PTRACE_SEIZE, *thread, options);
        }
        seen.extend(new);
    }
}

/// The threads of a process; the first one has the process's id.
#[must_use]
pub fn threads(pid: i32) -> Vec<i32> {
    let names = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect()
}

/// Lets a stopped process run, and delivers a signal to it; 0 is none.
///
/// # Errors
/// ESRCH: it is not stopped, or is gone.
pub fn resume(pid: i32, signal: i32, until: Until) -> nix::Result<()> {
    let how = match until {
        Until::Event => libc::PTRACE_CONT,
        Until::Call => libc::PTRACE_SYSCALL,
    };
    request(how, pid, signal)
}

/// Stops a traced process for a moment, so that it can be [resumed](resume) in another way. A system call that it
/// waits in continues afterwards.
///
/// # Errors
/// ESRCH: it is gone.
pub fn interrupt(pid: i32) -> nix::Result<()> {
    request(libc::PTRACE_INTERRUPT, pid, 0)
}

/// Leaves a process in its group-stop until it is continued.
///
/// # Errors
/// As [`resume`].
pub fn listen(pid: i32) -> nix::Result<()> {
    request(libc::PTRACE_LISTEN, pid, 0)
}

/// Lets a stopped process run, delivers a signal to it (0 is none), and stops tracing it.
///
/// # Errors
/// As [`resume`].
pub fn release(pid: i32, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_DETACH, pid, signal)
}

/// Checks that each system call that a relay needs works here. A seccomp profile may refuse some of them, and half a
/// relay would swallow signals. `worker` is the process that it will signal.
///
/// # Errors
/// The call that was refused, and its errno.
pub fn verify(worker: &PidFd) -> Result<(), Refusal> {
    let refused = |call| move |errno: Errno| Refusal::Call(call, errno as i32);
    // No process has this pid, so a working call fails with ESRCH.
    match request(libc::PTRACE_CONT, i32::MAX, 0) {
        Err(Errno::ESRCH) => {}
        answer => return Err(refused(Call::Ptrace)(answer.err().unwrap_or(Errno::EPERM))),
    }
    match wait(&mut 0) {
        Ok(_) | Err(Errno::ECHILD) => {}
        Err(errno) => return Err(refused(Call::Wait)(errno)),
    }
    worker.signal(0).map_err(refused(Call::PidfdSendSignal))
}

/// The process that a thread belongs to.
#[must_use]
pub fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn request(request: Request, pid: i32, data: libc::c_int) -> nix::Result<()> {
    let no_address: *mut libc::c_void = ptr::null_mut();
    let data = usize::try_from(data).unwrap_or_default() as *mut libc::c_void;
    // SAFETY: none of the requests used here reads or writes this process's memory; `data` is a number.
    Errno::result(unsafe { libc::ptrace(request, pid, no_address, data) }).map(drop)
}

/// The sender of the signal that a stopped process is about to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel, because of a key at the terminal: the whole foreground group gets it.
    Terminal,
    /// A process; 0 for one in another PID namespace, as with `docker stop`.
    Process(i32),
}

/// Reads the sender.
#[must_use]
pub fn sender(pid: i32) -> Sender {
    match signal_info(pid) {
        Some(info) if info.si_code == libc::SI_KERNEL => Sender::Terminal,
        // SAFETY: if a process has sent the signal, the field is set; otherwise it is a meaningless number.
        Some(info) => Sender::Process(unsafe { info.si_pid() }),
        None => Sender::Process(0),
    }
}

fn signal_info(pid: i32) -> Option<libc::siginfo_t> {
    // SAFETY: all zeroes is a valid value of this plain C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: `info` is valid for writes of a siginfo_t, which is what this request writes.
    let asked = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, pid, no_address, ptr::from_mut(&mut info)) };
    (asked == 0).then_some(info)
}

/// The child that has just been stopped, if the signal that a stopped process is about to get reports that.
#[must_use]
pub fn stopped_child(pid: i32) -> Option<i32> {
    let info = signal_info(pid).filter(|info| info.si_signo == libc::SIGCHLD && info.si_code == libc::CLD_STOPPED)?;
    // SAFETY: the field is set for a SIGCHLD.
    Some(unsafe { info.si_pid() })
}

/// The next event of a traced thread since the last call, and which thread it is; `None` if there is none.
#[must_use]
pub fn next_stop() -> Option<(i32, Stop)> {
    let mut status = 0;
    let pid = wait(&mut status).ok().filter(|pid| *pid > 0)?;
    if !libc::WIFSTOPPED(status) {
        return Some((pid, Stop::Ended));
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        0 if signal == libc::SIGTRAP | SYSTEM_CALL => system_call(pid),
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_EXIT if dies_of_kill(pid) => Stop::Killed,
        libc::PTRACE_EVENT_EXIT => Stop::Exit,
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
        _ => Stop::Passing,
    };
    Some((pid, stop))
}

/// Distinguishes a system call's stop from a SIGTRAP (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL: i32 = 0x80;

fn wait(status: &mut libc::c_int) -> nix::Result<i32> {
    // SAFETY: `status` is valid for writes.
    Errno::result(unsafe { libc::waitpid(-1, status, libc::WNOHANG | libc::__WALL) })
}

/// At its exit stop, a process's event message is the status that its parent will wait for.
fn dies_of_kill(pid: i32) -> bool {
    let mut status: libc::c_ulong = 0;
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: `status` is valid for writes of an unsigned long, which is what this request writes.
    let asked = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, no_address, ptr::from_mut(&mut status)) };
    let status = libc::c_int::try_from(status).unwrap_or_default();
    asked == 0 && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL
}

/// The start of the kernel's `struct ptrace_syscall_info` (ptrace(2), PTRACE_GET_SYSCALL_INFO, since Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct SystemCall {
    operation: u8,
    padding: [u8; 3],
    architecture: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    /// Only at an entry.
    number: u64,
}

const GET_SYSCALL_INFO: Request = 0x420e;
const ENTRY: u8 = 1;

fn system_call(pid: i32) -> Stop {
    let mut call = SystemCall::default();
    let size = size_of::<SystemCall>() as *mut libc::c_void;
    // SAFETY: the kernel writes at most as many bytes as the address argument says, which is the size of `call`.
    let written = unsafe { libc::ptrace(GET_SYSCALL_INFO, pid, size, ptr::from_mut(&mut call)) };
    match i64::try_from(call.number) {
        Ok(number) if written > 0 && call.operation == ENTRY => match number {
            libc::SYS_exit if threads(pid).len() > 1 => Stop::Passing,
            libc::SYS_exit_group | libc::SYS_exit => Stop::Leaving,
            number => Stop::Call(number),
        },
        _ => Stop::Passing,
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::getpid;

    use super::*;

    #[test]
    fn every_call_works_where_tests_are_run() {
        let own = PidFd::open(getpid().as_raw()).unwrap();
        assert_eq!(verify(&own), Ok(()));
    }

    /// A process for the test below.
    #[test]
    #[ignore = "a process for another test"]
    fn another_thread() {
        println!("started");
        std::thread::sleep(std::time::Duration::from_secs(300));
    }

    fn with_two_threads() -> std::process::Child {
        use std::io::{BufRead, BufReader};
        let arguments = ["--ignored", "--exact", "--nocapture", "sys::ptrace::tests::another_thread"];
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let mut child =
            command.args(arguments).arg("--test-threads=2").stdout(std::process::Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        assert!(BufReader::new(output).lines().any(|line| line.unwrap().contains("started")));
        child
    }

    #[test]
    fn every_thread_of_a_process_is_seized() {
        let mut child = with_two_threads();
        let pid = i32::try_from(child.id()).unwrap();
        let threads = threads(pid);
        let seized = seize(pid);
        // SAFETY: the call takes no arguments.
        let own = unsafe { libc::gettid() };
        let tracer = |thread: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
            tracer.trim().parse::<i32>().unwrap()
        };
        let tracers: Vec<i32> = threads.iter().map(tracer).collect();
        let processes: Vec<Option<i32>> = threads.iter().map(|thread| process_of(*thread)).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seized, Ok(()));
        assert!(threads.len() > 1, "{threads:?}");
        assert_eq!(tracers, vec![own; threads.len()]);
        assert_eq!(processes, vec![Some(pid); threads.len()]);
    }
}
