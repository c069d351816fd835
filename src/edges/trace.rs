//! ptrace(2), pidfd_open(2) and queued signals: what the relay is made of. Its `unsafe` code is here.
//!
//! nix knows no real-time signals and would fail on the first one that a traced shell gets, so signals are plain
//! numbers here.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{getpid, getuid};

/// Why a traced process has stopped, or that it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered; [`resume`] says which one is.
    Signal(i32),
    /// It was stopped by a signal, as a shell's `kill -STOP` does; it wants [`listen`].
    Group,
    /// It is about to end; it does when it is resumed.
    Exit,
    /// Anything else that only wants to be resumed.
    Passing,
    /// It has ended, or is traced no more.
    Ended,
}

/// Begins to trace a process, which runs on.
///
/// # Errors
/// EPERM: it may not be traced, or is already. ESRCH: there is no such process.
pub fn seize(pid: i32) -> nix::Result<()> {
    request(libc::PTRACE_SEIZE, pid, libc::PTRACE_O_TRACEEXIT)
}

/// Lets a stopped process run, and delivers a signal to it; 0 is none.
///
/// # Errors
/// ESRCH: it is not stopped, or is gone.
pub fn resume(pid: i32, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_CONT, pid, signal)
}

/// Leaves a process in its group-stop until it is continued.
///
/// # Errors
/// As [`resume`].
pub fn listen(pid: i32) -> nix::Result<()> {
    request(libc::PTRACE_LISTEN, pid, 0)
}

/// Lets a stopped process run, delivers a signal to it (0 is none), and traces it no more.
///
/// # Errors
/// As [`resume`].
pub fn release(pid: i32, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_DETACH, pid, signal)
}

/// Whether ptrace(2) itself is denied (seccomp), whoever is to be traced: nobody has this pid, and the honest answer is
/// ESRCH.
#[must_use]
pub fn is_denied() -> bool {
    request(libc::PTRACE_CONT, i32::MAX, 0) != Err(Errno::ESRCH)
}

#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn request(request: Request, pid: i32, data: libc::c_int) -> nix::Result<()> {
    let no_address: *mut libc::c_void = ptr::null_mut();
    let data = usize::try_from(data).unwrap_or_default() as *mut libc::c_void;
    // SAFETY: of the requests used here none reads or writes memory of ours; `data` is a number.
    Errno::result(unsafe { libc::ptrace(request, pid, no_address, data) }).map(drop)
}

/// Who sent the signal that a stopped process is about to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel, for somebody at the terminal: all of the foreground group gets it.
    Terminal,
    /// A process; 0 for one of another PID namespace, as `docker stop` is.
    Process(i32),
}

/// Tells the sender.
#[must_use]
pub fn sender(pid: i32) -> Sender {
    match signal_info(pid) {
        Some(info) if info.si_code == libc::SI_KERNEL => Sender::Terminal,
        // SAFETY: of a signal that a process has sent, the field is set; of others it is a number without meaning.
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

/// The child that has just been stopped, if that is what the signal that a stopped process is about to get says.
#[must_use]
pub fn stopped_child(pid: i32) -> Option<i32> {
    let info = signal_info(pid).filter(|info| info.si_signo == libc::SIGCHLD && info.si_code == libc::CLD_STOPPED)?;
    // SAFETY: of a SIGCHLD the field is set.
    Some(unsafe { info.si_pid() })
}

/// What has happened to a child or a traced process since the last call; `None` if nothing has.
#[must_use]
pub fn next_stop() -> Option<(i32, Stop)> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    if pid <= 0 {
        return None;
    }
    if !libc::WIFSTOPPED(status) {
        return Some((pid, Stop::Ended));
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_EXIT => Stop::Exit,
        libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
        _ => Stop::Passing,
    };
    Some((pid, stop))
}

/// A process that cannot be taken for another one, even once it has ended. Readable (`poll(2)`) when it has.
#[derive(Debug)]
pub struct Handle {
    /// Its process id.
    pub pid: i32,
    descriptor: OwnedFd,
}

impl Handle {
    /// Opens a process.
    ///
    /// # Errors
    /// ESRCH: there is none. ENOSYS: the kernel is older than 5.3.
    pub fn open(pid: i32) -> nix::Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory.
        let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it. It is close-on-exec.
        Ok(Self { pid, descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// ESRCH: it has ended. EPERM: it may not be signalled.
    pub fn signal(&self, signal: i32) -> nix::Result<()> {
        send(self.descriptor.as_raw_fd(), signal, ptr::null())
    }

    /// Sends it a [`Message`].
    ///
    /// # Errors
    /// As [`Handle::signal`].
    pub fn tell(&self, message: Message) -> nix::Result<()> {
        tell(self.descriptor.as_raw_fd(), message)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl IntoRawFd for Handle {
    fn into_raw_fd(self) -> RawFd {
        self.descriptor.into_raw_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// What a relay is told, by its worker or by another relay: a queued signal with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The worker has heard this signal.
    Heard(i32),
    /// Another relay has a worker below this process, which the relay told so traces.
    Join(i32),
    /// This signal has come to a process that the other relay traces, and goes no further.
    Carry(i32),
    /// This signal has come to such a process, which has a handler for it.
    Watch(i32),
    /// Such a process wants to end, and waits for the worker.
    Ending,
    /// The relay is not wanted.
    Leave,
}

impl Message {
    fn to_number(self) -> usize {
        let (kind, value) = match self {
            Self::Heard(signal) => (1, signal),
            Self::Join(pid) => (2, pid),
            Self::Carry(signal) => (3, signal),
            Self::Watch(signal) => (4, signal),
            Self::Ending => (5, 0),
            Self::Leave => (6, 0),
        };
        kind << 24 | usize::try_from(value).unwrap_or_default()
    }

    /// Reads what was sent; `None` if it was none of ours.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        let value = number & 0xFF_FFFF;
        match number >> 24 {
            1 => Some(Self::Heard(value)),
            2 => Some(Self::Join(value)),
            3 => Some(Self::Carry(value)),
            4 => Some(Self::Watch(value)),
            5 => Some(Self::Ending),
            6 => Some(Self::Leave),
            _ => None,
        }
    }
}

/// The signal that carries messages. Real-time signals are queued and not merged.
#[must_use]
pub fn message_signal() -> i32 {
    libc::SIGRTMIN() + 4
}

/// The kernel's `siginfo_t` of a queued signal (`sigaction(2)`, `asm-generic/siginfo.h`); libc has no way to fill it in.
#[repr(C)]
struct Queued {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: usize,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Queued>() == 128 && size_of::<libc::siginfo_t>() == 128);

/// Sends a message through a pidfd. Async-signal-safe.
///
/// # Errors
/// ESRCH: it has ended.
pub fn tell(pidfd: RawFd, message: Message) -> nix::Result<()> {
    let signal = message_signal();
    let info = Queued {
        signo: signal,
        errno: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        pid: getpid().as_raw(),
        uid: getuid().as_raw(),
        value: message.to_number(),
        rest: [0; 12],
    };
    send(pidfd, signal, &raw const info)
}

fn send(pidfd: RawFd, signal: i32, info: *const Queued) -> nix::Result<()> {
    // SAFETY: `info` is null or points to a value of siginfo_t's size and form, which the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, info, 0) }).map(drop)
}

/// Receives what the relay waits for: that something has happened to a traced process, and messages. All signals are
/// blocked from now on: whoever ends a service's processes does not mean the relay, which ends with the worker.
#[derive(Debug)]
pub struct Inbox {
    descriptor: OwnedFd,
}

impl Inbox {
    /// Opens it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        // SAFETY: sigfillset and sigaddset write to a sigset_t of ours; signalfd and sigprocmask read it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()))?;
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::sigaddset(&raw mut set, message_signal());
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let descriptor = Errno::result(libc::signalfd(-1, &raw const set, flags))?;
            // SAFETY: as above, it is ours alone.
            Ok(Self { descriptor: OwnedFd::from_raw_fd(descriptor) })
        }
    }

    /// The messages that have come since the last call, each with its sender's pid.
    #[must_use]
    pub fn messages(&self) -> Vec<(i32, Message)> {
        let mut messages = Vec::new();
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        while nix::unistd::read(&self.descriptor, &mut buffer) == Ok(buffer.len()) {
            // SAFETY: the kernel has written a whole signalfd_siginfo, a plain C struct, to these bytes.
            let info: libc::signalfd_siginfo = unsafe { ptr::read_unaligned(buffer.as_ptr().cast()) };
            let pid = i32::try_from(info.ssi_pid).unwrap_or_default();
            if i32::try_from(info.ssi_signo) == Ok(message_signal()) {
                messages.extend(Message::from_number(info.ssi_int).map(|message| (pid, message)));
            }
        }
        messages
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        for message in [
            Message::Heard(15),
            Message::Join(4_194_304),
            Message::Carry(20),
            Message::Watch(2),
            Message::Ending,
            Message::Leave,
        ] {
            let number = i32::try_from(message.to_number()).unwrap();
            assert_eq!(Message::from_number(number), Some(message));
        }
        assert_eq!(Message::from_number(0), None);
        assert_eq!(Message::from_number(-1), None);
    }

    #[test]
    fn ptrace_is_not_denied_where_nobody_is_asked_for() {
        // Debuggers work on a machine where tests are run.
        assert!(!is_denied());
    }

    #[test]
    fn a_handle_is_of_one_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let handle = Handle::open(i32::try_from(child.id()).unwrap()).unwrap();
        handle.signal(libc::SIGTERM).unwrap();
        child.wait().unwrap();
        assert_eq!(handle.signal(0), Err(Errno::ESRCH));
        assert_eq!(handle.tell(Message::Leave), Err(Errno::ESRCH));
    }
}
