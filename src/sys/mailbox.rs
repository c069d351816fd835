//! What a relay waits for: messages, stops of traced processes, and signals sent to the relay itself.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use crate::model::forwarding::FORWARDED;
use crate::model::relay_message::Message;
use crate::model::trace_denied::{Call, Refusal};
use crate::sys::pidfd;

/// The signal that carries messages. Real-time signals are queued and not merged.
///
/// It is counted from the last one. Where the first one is depends on how many a libc keeps for itself (glibc 2, musl 3), and
/// in a precompiled gem the worker uses glibc and the relay musl.
#[must_use]
pub fn message_signal() -> i32 {
    libc::SIGRTMAX() - 4
}

/// Sends a message through a pidfd. Async-signal-safe.
///
/// # Errors
/// ESRCH: the relay has ended.
pub fn send(pidfd: &impl AsRawFd, message: Message) -> nix::Result<()> {
    pidfd::queue(pidfd.as_raw_fd(), message_signal(), message.to_number())
}

/// Something that a relay received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// A message from this process.
    Message(i32, Message),
    /// Somebody took the relay for the worker and sent it this signal.
    Signal(i32),
}

/// Receives what the relay waits for: events of traced processes, messages, and signals sent to the relay itself. All
/// signals are blocked from now on and have their default dispositions: with CHLD ignored, which is inherited
/// (`execve(2)`), the kernel would not report stops.
#[derive(Debug)]
pub struct Inbox {
    descriptor: OwnedFd,
}

impl Inbox {
    /// Opens the inbox.
    ///
    /// # Errors
    /// The call that was refused, and its errno.
    pub fn open() -> Result<Self, Refusal> {
        let refused = |errno: Errno| Refusal::Call(Call::Signalfd, errno as i32);
        // SAFETY: sigfillset and sigaddset write to a local sigset_t; signalfd and sigprocmask read it. SIG_DFL is a
        // valid disposition; the system refuses KILL, STOP and the C library's own signals.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut())).map_err(refused)?;
            for number in 1..=libc::SIGRTMAX() {
                libc::signal(number, libc::SIG_DFL);
            }
            libc::sigemptyset(&raw mut set);
            for number in [libc::SIGCHLD, message_signal()].into_iter().chain(FORWARDED) {
                libc::sigaddset(&raw mut set, number);
            }
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let descriptor = Errno::result(libc::signalfd(-1, &raw const set, flags)).map_err(refused)?;
            // SAFETY: as above, nobody else owns it.
            Ok(Self { descriptor: OwnedFd::from_raw_fd(descriptor) })
        }
    }

    /// Everything received since the last call.
    #[must_use]
    pub fn read(&self) -> Vec<Mail> {
        let mut mail = Vec::new();
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        while nix::unistd::read(&self.descriptor, &mut buffer) == Ok(buffer.len()) {
            // SAFETY: the kernel has written a whole signalfd_siginfo, a plain C struct, to these bytes.
            let info: libc::signalfd_siginfo = unsafe { ptr::read_unaligned(buffer.as_ptr().cast()) };
            let pid = i32::try_from(info.ssi_pid).unwrap_or_default();
            match i32::try_from(info.ssi_signo).unwrap_or_default() {
                signal if signal == message_signal() => {
                    mail.extend(Message::from_number(info.ssi_ptr).map(|message| Mail::Message(pid, message)));
                }
                libc::SIGCHLD => {}
                signal => mail.push(Mail::Signal(signal)),
            }
        }
        mail
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
    fn worker_and_relay_use_the_same_signal_whatever_their_libc_is() {
        assert_eq!(message_signal(), 60);
    }
}
