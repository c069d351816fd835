//! pidfd_open(2): a handle of one process, which stays valid when its pid is reused.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getpid, getuid};

/// A handle of one process, even once that has ended. Readable (`poll(2)`) after its end.
#[derive(Debug)]
pub struct PidFd {
    /// Its process id.
    pub pid: i32,
    descriptor: OwnedFd,
}

impl PidFd {
    /// Opens a process.
    ///
    /// # Errors
    /// ESRCH: there is no such process. ENOSYS: the kernel is older than 5.3.
    pub fn open(pid: i32) -> nix::Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory.
        let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just returned this descriptor, and nobody else has it. It is close-on-exec.
        Ok(Self { pid, descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// ESRCH: it has ended. EPERM: it may not be signalled.
    pub fn signal(&self, signal: i32) -> nix::Result<()> {
        send(self.descriptor.as_raw_fd(), signal, ptr::null())
    }

    /// Queues a real-time signal with a value for the process. Async-signal-safe.
    ///
    /// # Errors
    /// As [`PidFd::signal`].
    pub fn queue(&self, signal: i32, value: usize) -> nix::Result<()> {
        queue(self.descriptor.as_raw_fd(), signal, value)
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        has_ended(self)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl IntoRawFd for PidFd {
    fn into_raw_fd(self) -> RawFd {
        self.descriptor.into_raw_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// The kernel's `siginfo_t` of a queued signal (`sigaction(2)`, `asm-generic/siginfo.h`); libc cannot fill it in.
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

/// Queues a real-time signal with a value through a pidfd. Async-signal-safe.
///
/// # Errors
/// ESRCH: the process has ended.
pub fn queue(pidfd: RawFd, signal: i32, value: usize) -> nix::Result<()> {
    let info = Queued {
        signo: signal,
        errno: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        pid: getpid().as_raw(),
        uid: getuid().as_raw(),
        value,
        rest: [0; 12],
    };
    send(pidfd, signal, &raw const info)
}

/// Whether the process of a pidfd has ended.
pub fn has_ended(pidfd: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn send(pidfd: RawFd, signal: i32, info: *const Queued) -> nix::Result<()> {
    // SAFETY: `info` is null or points to a value of siginfo_t's size and form, which the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, info, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_is_of_one_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        pidfd.signal(libc::SIGTERM).unwrap();
        child.wait().unwrap();
        assert_eq!(pidfd.signal(0), Err(Errno::ESRCH));
        assert_eq!(pidfd.queue(libc::SIGRTMIN(), 1), Err(Errno::ESRCH));
    }
}
