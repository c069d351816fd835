//! This process's link to its relay: a pidfd, which a handler may use.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
#[cfg(target_os = "linux")]
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

#[cfg(target_os = "linux")]
use nix::errno::Errno;
use nix::libc;

#[cfg(target_os = "linux")]
use crate::model::relay_message::Message;
#[cfg(target_os = "linux")]
use crate::sys::mailbox;
#[cfg(target_os = "linux")]
use crate::sys::pidfd::PidFd;

/// A pidfd of the relay, or -1. Never closed, because a handler may be using it.
static RELAY: AtomicI32 = AtomicI32::new(-1);

/// From now on the relay is notified of every signal that arrives, so that it need not send it again.
#[cfg(target_os = "linux")]
pub fn set(relay: PidFd) {
    RELAY.store(relay.into_raw_fd(), SeqCst);
}

/// The relay's pidfd, to send it a message or to check whether it runs.
#[must_use]
pub fn relay() -> Option<BorrowedFd<'static>> {
    let relay = RELAY.load(SeqCst);
    // SAFETY: the descriptor was stored by `set` and is never closed.
    (relay >= 0).then(|| unsafe { BorrowedFd::borrow_raw(relay) })
}

/// Async-signal-safe.
#[cfg(target_os = "linux")]
pub(super) fn notify(signal: libc::c_int) {
    if let Some(relay) = relay() {
        let saved = Errno::last();
        let _ = mailbox::send(&relay, Message::Arrived(signal));
        saved.set();
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn notify(_: libc::c_int) {}
