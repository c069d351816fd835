//! The self-pipe: a handler writes a byte to it, a thread polls its other end (`signal-safety(7)`).

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::unistd::{getpid, pipe, write};

/// A pipe that a handler writes to. Its ends stay open for the life of the process: a handler may be running at any
/// time, on any thread.
pub struct SelfPipe {
    owner: AtomicI32,
    input: AtomicI32,
}

impl SelfPipe {
    pub const fn new() -> Self {
        Self { owner: AtomicI32::new(0), input: AtomicI32::new(-1) }
    }

    /// Makes a new pipe for the calling process and returns its reading end.
    pub fn open(&self) -> nix::Result<OwnedFd> {
        let (output, input) = pipe()?;
        for end in [output.as_fd(), input.as_fd()] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        // A handler must never wait; with this many unread signals, one more adds nothing.
        fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.input.store(input.into_raw_fd(), SeqCst);
        self.owner.store(getpid().as_raw(), SeqCst);
        Ok(output)
    }

    pub fn is_ours(&self) -> bool {
        self.owner.load(SeqCst) == getpid().as_raw()
    }

    /// Async-signal-safe. Signal numbers fit a byte; 0 is none.
    pub fn send(&self, signal: libc::c_int) {
        let saved = Errno::last();
        let input = self.input.load(SeqCst);
        if input >= 0 {
            // SAFETY: the descriptor was stored by `open` and is never closed.
            let input = unsafe { BorrowedFd::borrow_raw(input) };
            let _ = write(input, &[u8::try_from(signal).unwrap_or_default()]);
        }
        saved.set();
    }
}
