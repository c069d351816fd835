//! What this process does with a signal (`sigaction(2)`), and its signal mask.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// The signals that change a Sidekiq's state: two that stop it, and one that quiets it.
pub const OBSERVED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTSTP];

/// The signals that the boot guard handles. INT is left to Ruby, which ends the process as people expect of Ctrl-C.
pub(super) const GUARDED: [Signal; 2] = [Signal::SIGTERM, Signal::SIGTSTP];

/// The disposition of a signal in this process.
pub(super) fn disposition(signal: Signal) -> nix::Result<libc::sigaction> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: with a null new action it only reads; `now` is valid for writes and is filled in on success.
    Errno::result(unsafe { libc::sigaction(signal as libc::c_int, ptr::null(), now.as_mut_ptr()) })?;
    // SAFETY: sigaction succeeded, so it has written `now`.
    Ok(unsafe { now.assume_init() })
}

/// Sets a disposition: one that was read before, the boot guard's, or the default. Async-signal-safe.
pub(super) fn set(signal: Signal, action: &libc::sigaction) -> nix::Result<()> {
    // SAFETY: `action` is a whole sigaction whose handler, if any, is a function of sigaction's signature: it came
    // from `disposition`, or from `action`.
    Errno::result(unsafe { libc::sigaction(signal as libc::c_int, action, ptr::null_mut()) }).map(drop)
}

pub(super) fn action(handler: libc::sighandler_t, flags: libc::c_int) -> libc::sigaction {
    // SAFETY: sigaction is a plain C struct of integers and an optional function; all zeroes is a valid value of it.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    action
}

/// Which of the guarded signals this process ignores.
#[must_use]
pub fn ignored() -> Vec<Signal> {
    let is_ignored = |signal: &Signal| disposition(*signal).is_ok_and(|now| now.sa_sigaction == libc::SIG_IGN);
    GUARDED.into_iter().filter(is_ignored).collect()
}

/// Unblocks the [`OBSERVED`] signals in the calling thread if it has inherited them blocked. Returns which ones were.
///
/// # Errors
/// The system's error.
pub fn unblock() -> nix::Result<Vec<Signal>> {
    let mask = SigSet::thread_get_mask()?;
    let blocked: Vec<Signal> = OBSERVED.into_iter().filter(|signal| mask.contains(*signal)).collect();
    blocked.iter().copied().collect::<SigSet>().thread_unblock()?;
    Ok(blocked)
}

/// Runs `work` with every signal blocked, so that a thread started in it receives none of them.
///
/// # Errors
/// The mask cannot be changed, or `work` fails.
pub fn with_signals_blocked<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let done = work();
    before.thread_set_mask()?;
    done
}

/// Starts a thread that receives no signals: they are for Sidekiq.
///
/// # Errors
/// The system has no thread left.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    with_signals_blocked(|| thread::Builder::new().name(name.to_owned()).spawn(work))
}

/// Resets CHLD to its default in this process. It may have been ignored at launch, which is inherited; nobody could
/// wait for a child then (waitpid(2), ECHILD).
///
/// # Errors
/// The system's error.
pub fn wait_for_children() -> nix::Result<()> {
    set(Signal::SIGCHLD, &action(libc::SIG_DFL, 0))
}

/// Handlers to reinstall, as the kernel had them.
static SAVED: Mutex<Vec<(Signal, libc::sigaction)>> = Mutex::new(Vec::new());

/// Saves the handler of a signal. Ruby returns the previous trap only when another is set, and cannot reinstall a
/// handler that native code has set.
///
/// # Errors
/// The system's error.
pub fn save(signal: Signal) -> nix::Result<()> {
    let now = disposition(signal)?;
    SAVED.lock().unwrap_or_else(PoisonError::into_inner).push((signal, now));
    Ok(())
}

/// Reinstalls the handler that was [saved](save) last.
///
/// # Errors
/// The system's error.
pub fn restore(signal: Signal) -> nix::Result<()> {
    let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(place) = saved.iter().rposition(|(of, _)| *of == signal) else { return Ok(()) };
    let (_, action) = saved.swap_remove(place);
    set(signal, &action)
}
