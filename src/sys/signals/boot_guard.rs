//! Handles TERM and TSTP until Sidekiq has set its traps.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::disposition::{self, GUARDED};
use super::relay_link;
use super::self_pipe::SelfPipe;

static GUARD: SelfPipe = SelfPipe::new();
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// A thread is in [`wait_for_stop`] and will act on a TERM.
static WAITED_FOR: AtomicBool = AtomicBool::new(false);
/// A TERM that is not handled yet, neither by [`wait_for_stop`] nor by the previous handler. One of them takes it.
static STOP_PENDING: AtomicBool = AtomicBool::new(false);
static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);
static QUIET_REQUESTED: AtomicBool = AtomicBool::new(false);
/// The previous handlers: address and flags.
static PREVIOUS: [(AtomicUsize, AtomicI32); GUARDED.len()] =
    [const { (AtomicUsize::new(libc::SIG_DFL), AtomicI32::new(0)) }; GUARDED.len()];
/// Serializes [`reinstall`] and [`release`], which run on different threads.
static REINSTALLING: Mutex<()> = Mutex::new(());

/// How often, in milliseconds, a booting process checks whether an application has set a trap over the guard's
/// handler.
const INTERVAL: u8 = 5;

/// The signals that arrived during the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// TERM came.
    pub stop: bool,
    /// TSTP came.
    pub quiet: bool,
}

/// Starts to guard the calling process's boot. TSTP no longer suspends it but is remembered. TERM wakes
/// [`wait_for_stop`], whatever traps the application has set or will set; if no thread waits there, it goes to the
/// previous handler.
///
/// # Errors
/// The system's error.
pub fn install() -> io::Result<()> {
    let output = GUARD.open()?;
    GUARD_OUTPUT.store(output.into_raw_fd(), SeqCst);
    STOP_PENDING.store(false, SeqCst);
    STOP_REQUESTED.store(false, SeqCst);
    QUIET_REQUESTED.store(false, SeqCst);
    ACTIVE.store(true, SeqCst);
    reinstall()?;
    Ok(())
}

static GUARD_OUTPUT: AtomicI32 = AtomicI32::new(-1);

/// Waits until TERM arrives during the boot; `None` once the guard is released or the wait interrupted. Meanwhile it
/// replaces every trap that is set: a trap stays in place for at most `INTERVAL`.
pub fn wait_for_stop() -> Option<Signal> {
    let output = GUARD_OUTPUT.load(SeqCst);
    if output < 0 || !GUARD.is_ours() {
        return None;
    }
    // SAFETY: the descriptor was stored by `install` and is never closed.
    let output = unsafe { BorrowedFd::borrow_raw(output) };
    WAITED_FOR.store(true, SeqCst);
    // Checked after every wake, so that a TERM that was pending when the guard was released is handled as well.
    let mut is_woken = false;
    let is_pending = loop {
        if STOP_PENDING.swap(false, SeqCst) {
            break true;
        }
        if is_woken || !ACTIVE.load(SeqCst) {
            break false;
        }
        let mut descriptors = [PollFd::new(output, PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::from(INTERVAL)) {
            Ok(0) => drop(reinstall()),
            Ok(_) => {
                let _ = nix::unistd::read(output, &mut [0; 1]);
                is_woken = true;
            }
            Err(Errno::EINTR) => {}
            Err(_) => is_woken = true,
        }
    };
    WAITED_FOR.store(false, SeqCst);
    is_pending.then_some(Signal::SIGTERM)
}

/// Whether the calling process's boot is guarded.
#[must_use]
pub fn is_active() -> bool {
    GUARD.is_ours() && ACTIVE.load(SeqCst)
}

/// Makes [`wait_for_stop`] return.
pub fn interrupt_wait() {
    if GUARD.is_ours() {
        GUARD.send(0);
    }
}

/// Ends the guard, reinstalls the previous handlers, and returns what arrived meanwhile. In a process without a guard
/// (a forked child) nothing did.
pub fn release() -> Requested {
    if !is_active() {
        return Requested { stop: false, quiet: false };
    }
    let reinstalling = REINSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    ACTIVE.store(false, SeqCst);
    for (signal, (found, flags)) in GUARDED.into_iter().zip(&PREVIOUS) {
        // A TSTP would suspend a process that TERM is ending.
        let keeps = is_ending(signal as libc::c_int) && found.load(SeqCst) == libc::SIG_DFL;
        if !keeps && disposition::disposition(signal).is_ok_and(|now| now.sa_sigaction == guard()) {
            let _ = disposition::set(signal, &disposition::action(found.load(SeqCst), flags.load(SeqCst)));
        }
    }
    drop(reinstalling);
    interrupt_wait();
    Requested { stop: STOP_REQUESTED.load(SeqCst), quiet: QUIET_REQUESTED.load(SeqCst) }
}

/// Whether this is a TSTP for a process whose boot TERM is ending.
fn is_ending(number: libc::c_int) -> bool {
    number == libc::SIGTSTP && GUARD.is_ours() && STOP_REQUESTED.load(SeqCst)
}

fn guard() -> libc::sighandler_t {
    on_guarded as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as libc::sighandler_t
}

fn reinstall() -> nix::Result<()> {
    let _retaking = REINSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    for (signal, (found, flags)) in GUARDED.into_iter().zip(&PREVIOUS) {
        let now = disposition::disposition(signal)?;
        if ACTIVE.load(SeqCst) && now.sa_sigaction != guard() {
            flags.store(now.sa_flags, SeqCst);
            found.store(now.sa_sigaction, SeqCst);
            disposition::set(signal, &disposition::action(guard(), libc::SA_SIGINFO))?;
        }
    }
    Ok(())
}

extern "C" fn on_guarded(number: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if is_active() {
        relay_link::notify(number);
        // Another thread may have released the guard meanwhile, and may not have seen the signal.
        if number == libc::SIGTSTP {
            QUIET_REQUESTED.store(true, SeqCst);
            if is_active() {
                return;
            }
        } else {
            STOP_REQUESTED.store(true, SeqCst);
            if WAITED_FOR.load(SeqCst) {
                STOP_PENDING.store(true, SeqCst);
                GUARD.send(number);
                if is_active() || !STOP_PENDING.swap(false, SeqCst) {
                    return;
                }
            }
        }
    }
    call_previous(number, info, context);
}

/// Does what would have happened without the guard: in a forked child, or while no thread waits. Async-signal-safe.
fn call_previous(number: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let found = GUARDED.iter().zip(&PREVIOUS).find(|(signal, _)| **signal as libc::c_int == number);
    let Some((signal, (handler, flags))) = found else { return };
    match handler.load(SeqCst) {
        libc::SIG_IGN => {}
        // It may have arrived before the guard was released, while its handler runs afterwards.
        libc::SIG_DFL if is_ending(number) => {}
        libc::SIG_DFL => {
            // Raised again, it takes effect when this handler returns and the signal is unblocked.
            let _ = disposition::set(*signal, &disposition::action(libc::SIG_DFL, 0));
            let _ = nix::sys::signal::raise(*signal);
        }
        handler if flags.load(SeqCst) & libc::SA_SIGINFO != 0 => {
            // SAFETY: the kernel held this address as a handler with SA_SIGINFO, so it is a function of this type.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(number, info, context);
        }
        handler => {
            // SAFETY: the kernel held this address as a handler without SA_SIGINFO, so it is a function of this type.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(number);
        }
    }
}
