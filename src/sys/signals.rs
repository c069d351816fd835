//! Signals, as the kernel sees them.
//!
//! Two things watch signals, one after the other:
//!
//! - The [boot guard](hold_boot), until Sidekiq has its traps: during the boot Ruby's default (or an application's own trap)
//!   would end, stop or deafen the process.
//! - The [`Observer`], from then on: it tells of a signal the moment it arrives, before Ruby gets round to its trap,
//!   and hands it on to Ruby.
//!
//! Both are bound to the process that set them up. A forked child inherits handlers and pipe, so every handler asks
//! first whether it is in its own process (`fork(2)`); in a child it steps aside.
//!
//! Handlers do what `signal-safety(7)` allows and nothing else: atomics, `getpid`, `write`, `sigaction`, `raise`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
pub use nix::sys::signal::Signal;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{getpid, pipe, write};

use crate::sys::outputs::Output;

/// The signals that change a Sidekiq's state: stop, stop, and be quiet.
pub const OBSERVED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTSTP];

/// What the boot guard answers for. INT is left to Ruby, which ends the process as people expect of Ctrl-C.
const GUARDED: [Signal; 2] = [Signal::SIGTERM, Signal::SIGTSTP];

/// A pipe that a handler writes to. Its ends stay open for the life of the process: a handler may be running at any
/// time, on any thread.
struct Wire {
    owner: AtomicI32,
    input: AtomicI32,
}

impl Wire {
    const fn new() -> Self {
        Self { owner: AtomicI32::new(0), input: AtomicI32::new(-1) }
    }

    /// Makes a new pipe for the calling process and gives back its reading end.
    fn lay(&self) -> nix::Result<OwnedFd> {
        let (output, input) = pipe()?;
        for end in [output.as_fd(), input.as_fd()] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        // A handler must never wait; with this many signals unread one more tells nothing new.
        fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.input.store(input.into_raw_fd(), SeqCst);
        self.owner.store(getpid().as_raw(), SeqCst);
        Ok(output)
    }

    fn is_ours(&self) -> bool {
        self.owner.load(SeqCst) == getpid().as_raw()
    }

    /// Async-signal-safe. Signal numbers fit a byte; 0 is none.
    fn send(&self, signal: libc::c_int) {
        let saved = Errno::last();
        let input = self.input.load(SeqCst);
        if input >= 0 {
            // SAFETY: the descriptor was stored by `lay` and is never closed.
            let input = unsafe { BorrowedFd::borrow_raw(input) };
            let _ = write(input, &[u8::try_from(signal).unwrap_or_default()]);
        }
        saved.set();
    }
}

/// The disposition of a signal in this process.
fn disposition(signal: Signal) -> nix::Result<libc::sigaction> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: a null new action only asks; `now` is valid for writes and is filled in on success.
    Errno::result(unsafe { libc::sigaction(signal as libc::c_int, ptr::null(), now.as_mut_ptr()) })?;
    // SAFETY: sigaction succeeded, so it has written `now`.
    Ok(unsafe { now.assume_init() })
}

/// Sets a disposition: one that was read before, the boot guard's, or the default. Async-signal-safe.
fn dispose(signal: Signal, action: &libc::sigaction) -> nix::Result<()> {
    // SAFETY: `action` is a whole sigaction whose handler, if any, is a function of sigaction's signature: it came
    // from `disposition`, or from `action`.
    Errno::result(unsafe { libc::sigaction(signal as libc::c_int, action, ptr::null_mut()) }).map(drop)
}

fn action(handler: libc::sighandler_t, flags: libc::c_int) -> libc::sigaction {
    // SAFETY: sigaction is a plain C struct of integers and an optional function; all zeroes is a valid value of it.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    action
}

/// Which of the guarded signals are ignored in this process.
#[must_use]
pub fn ignored() -> Vec<Signal> {
    let is_ignored = |signal: &Signal| disposition(*signal).is_ok_and(|now| now.sa_sigaction == libc::SIG_IGN);
    GUARDED.into_iter().filter(is_ignored).collect()
}

/// Lets the calling thread take the [`OBSERVED`] signals again where it had inherited them blocked. Gives back which.
///
/// # Errors
/// What the system says.
pub fn unblock() -> nix::Result<Vec<Signal>> {
    let mask = SigSet::thread_get_mask()?;
    let blocked: Vec<Signal> = OBSERVED.into_iter().filter(|signal| mask.contains(*signal)).collect();
    blocked.iter().copied().collect::<SigSet>().thread_unblock()?;
    Ok(blocked)
}

/// Runs `work` with every signal blocked, so that a thread begun in it takes none of them.
///
/// # Errors
/// The mask cannot be changed, or what `work` says.
pub fn with_signals_blocked<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let done = work();
    before.thread_set_mask()?;
    done
}

/// Sets CHLD back to its default in this process. It may have been ignored at launch, which is inherited, and then nobody
/// can wait for a child (waitpid(2), ECHILD).
///
/// # Errors
/// What the system says.
pub fn wait_for_children() -> nix::Result<()> {
    dispose(Signal::SIGCHLD, &action(libc::SIG_DFL, 0))
}

/// Handlers to put back, as the kernel had them.
static KEPT: Mutex<Vec<(Signal, libc::sigaction)>> = Mutex::new(Vec::new());

/// Keeps the handler of a signal. Ruby tells which trap is set only when another is, and cannot set a handler again that
/// native code has set.
///
/// # Errors
/// What the system says.
pub fn keep(signal: Signal) -> nix::Result<()> {
    let now = disposition(signal)?;
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push((signal, now));
    Ok(())
}

/// Puts the handler back that was [kept](keep) last.
///
/// # Errors
/// What the system says.
pub fn put_back(signal: Signal) -> nix::Result<()> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(place) = kept.iter().rposition(|(of, _)| *of == signal) else { return Ok(()) };
    let (_, action) = kept.swap_remove(place);
    dispose(signal, &action)
}

// ---- the observer ----

static OBSERVER: Wire = Wire::new();
/// What the kernel calls for each of [`OBSERVED`] while the observer is armed.
static ARMED: [OnceLock<libc::sigaction>; OBSERVED.len()] = [const { OnceLock::new() }; OBSERVED.len()];

/// Which of [`OBSERVED`] have arrived.
static ARRIVED: [AtomicBool; OBSERVED.len()] = [const { AtomicBool::new(false) }; OBSERVED.len()];

/// Hears of signals the moment they arrive.
#[derive(Debug)]
pub struct Observer {
    output: File,
}

impl Observer {
    /// Begins to observe in the calling process. Call it once Sidekiq has set its traps: the handler found now is
    /// the one that every signal is handed on to.
    ///
    /// # Errors
    /// What the system says.
    pub fn arm() -> io::Result<Self> {
        let output = OBSERVER.lay()?;
        for ((signal, armed), arrived) in OBSERVED.into_iter().zip(&ARMED).zip(&ARRIVED) {
            arrived.store(false, SeqCst);
            let number = signal as libc::c_int;
            if armed.get().is_some() {
                // Inherited from the process that forked this one.
                rearm(signal)?;
                continue;
            }
            let tell = move || {
                if OBSERVER.is_ours() {
                    arrived.store(true, SeqCst);
                    OBSERVER.send(number);
                    tell_relay(number);
                }
            };
            // SAFETY: `tell` reads atomics, calls getpid and writes to a pipe, and nothing else.
            unsafe { signal_hook::low_level::register(number, tell) }?;
            let now = disposition(signal)?;
            armed.get_or_init(|| now);
        }
        Ok(Self { output: File::from(output) })
    }

    /// Waits for the next signal. It returns without one when one of the `outputs` loses its reader, when the time is over,
    /// and when it is [woken](wake_observer).
    ///
    /// # Errors
    /// There will be none.
    pub fn wait(&mut self, outputs: &[Output], timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        let own = PollFd::new(self.output.as_fd(), PollFlags::POLLIN);
        let outputs = outputs.iter().map(|output| PollFd::new(output.as_fd(), PollFlags::empty()));
        let mut polled: Vec<PollFd<'_>> = std::iter::once(own).chain(outputs).collect();
        // Rounded up, or the last millisecond would be spent awake.
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !polled.first().is_some_and(|own| own.any().unwrap_or_default()) {
            return Ok(None);
        }
        let mut byte = [0; 1];
        self.output.read_exact(&mut byte)?;
        let [number] = byte;
        Ok(Signal::try_from(libc::c_int::from(number)).ok())
    }
}

/// Makes [`Observer::wait`] return.
pub fn wake_observer() {
    if OBSERVER.is_ours() {
        OBSERVER.send(0);
    }
}

/// Whether the signal has arrived since the observer was armed.
#[must_use]
pub fn has_arrived(signal: Signal) -> bool {
    OBSERVED.iter().zip(&ARRIVED).any(|(observed, arrived)| *observed == signal && arrived.load(SeqCst))
}

/// The signals whose handler somebody has replaced since the observer was armed.
#[must_use]
pub fn displaced() -> Vec<Signal> {
    let is_displaced = |signal: Signal, armed: &libc::sigaction| {
        disposition(signal).is_ok_and(|now| now.sa_sigaction != armed.sa_sigaction)
    };
    let armed = OBSERVED.into_iter().zip(&ARMED).filter_map(|(signal, armed)| Some((signal, armed.get()?)));
    armed.filter(|(signal, armed)| is_displaced(*signal, armed)).map(|(signal, _)| signal).collect()
}

/// Puts the observer's handler back. signal-hook cannot do that itself: it believes that its handler, once
/// installed, stays. What it hands signals on to is Ruby's own handler, which runs whichever trap Ruby has now.
///
/// # Errors
/// What the system says.
pub fn rearm(signal: Signal) -> nix::Result<()> {
    let armed = OBSERVED.into_iter().zip(&ARMED).find(|(observed, _)| *observed == signal);
    armed.and_then(|(_, armed)| armed.get()).map_or(Ok(()), |armed| dispose(signal, armed))
}

// ---- the relay ----

/// A pidfd of the relay, or -1. Never closed: a handler may be using it.
static RELAY: AtomicI32 = AtomicI32::new(-1);

/// From now on the relay is told of every signal that is heard, so that it need not send it once more.
#[cfg(target_os = "linux")]
pub fn set_relay(relay: crate::sys::trace::Handle) {
    RELAY.store(relay.into_raw_fd(), SeqCst);
}

/// The relay, to tell it something and to see whether it is there.
#[must_use]
pub fn relay() -> Option<BorrowedFd<'static>> {
    let relay = RELAY.load(SeqCst);
    // SAFETY: the descriptor was stored by `set_relay` and is never closed.
    (relay >= 0).then(|| unsafe { BorrowedFd::borrow_raw(relay) })
}

/// Async-signal-safe.
#[cfg(target_os = "linux")]
fn tell_relay(signal: libc::c_int) {
    if let Some(relay) = relay() {
        let saved = Errno::last();
        let _ = crate::sys::trace::tell(relay.as_raw_fd(), crate::sys::trace::Message::Heard(signal));
        saved.set();
    }
}

#[cfg(not(target_os = "linux"))]
fn tell_relay(_: libc::c_int) {}

// ---- the boot guard ----

static GUARD: Wire = Wire::new();
static GUARDING: AtomicBool = AtomicBool::new(false);
/// Somebody is in [`wait_for_stop`] and will answer for a TERM.
static WAITED_FOR: AtomicBool = AtomicBool::new(false);
/// A TERM that nobody has taken yet: not [`wait_for_stop`], and not the handler that was found. One of them takes it.
static STOP_PENDING: AtomicBool = AtomicBool::new(false);
static STOP_ASKED: AtomicBool = AtomicBool::new(false);
static QUIET_ASKED: AtomicBool = AtomicBool::new(false);
/// The handlers found in place of ours: address and flags.
static FOUND: [(AtomicUsize, AtomicI32); GUARDED.len()] =
    [const { (AtomicUsize::new(libc::SIG_DFL), AtomicI32::new(0)) }; GUARDED.len()];
/// Keeps [`retake`] and [`release_boot`] apart, which run on different threads.
static RETAKING: Mutex<()> = Mutex::new(());

/// How often, in milliseconds, a booting process looks whether an application has set a trap of its own over the guard.
const RETAKE: u8 = 5;

/// What was asked of a process while it booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// TERM came.
    pub stop: bool,
    /// TSTP came.
    pub quiet: bool,
}

/// Begins to guard the calling process's boot. TSTP no longer stops it but is remembered; TERM wakes
/// [`wait_for_stop`], whatever traps the application has set or will set; while nobody waits there, it is handed on
/// to the handler that was found.
///
/// # Errors
/// What the system says.
pub fn hold_boot() -> io::Result<()> {
    let output = GUARD.lay()?;
    GUARD_OUTPUT.store(output.into_raw_fd(), SeqCst);
    STOP_PENDING.store(false, SeqCst);
    STOP_ASKED.store(false, SeqCst);
    QUIET_ASKED.store(false, SeqCst);
    GUARDING.store(true, SeqCst);
    retake()?;
    Ok(())
}

static GUARD_OUTPUT: AtomicI32 = AtomicI32::new(-1);

/// Waits until TERM arrives during the boot; `None` once the guard is released or the wait interrupted.
/// Meanwhile it takes its place back from every trap that is set: `RETAKE` is the longest a trap stays on top.
pub fn wait_for_stop() -> Option<Signal> {
    let output = GUARD_OUTPUT.load(SeqCst);
    if output < 0 || !GUARD.is_ours() {
        return None;
    }
    // SAFETY: the descriptor was stored by `hold_boot` and is never closed.
    let output = unsafe { BorrowedFd::borrow_raw(output) };
    WAITED_FOR.store(true, SeqCst);
    // Woken, it looks; what was pending when the guard was released is answered for as well.
    let mut is_woken = false;
    let is_pending = loop {
        if STOP_PENDING.swap(false, SeqCst) {
            break true;
        }
        if is_woken || !GUARDING.load(SeqCst) {
            break false;
        }
        let mut descriptors = [PollFd::new(output, PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::from(RETAKE)) {
            Ok(0) => drop(retake()),
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
pub fn is_guarding() -> bool {
    GUARD.is_ours() && GUARDING.load(SeqCst)
}

/// Makes [`wait_for_stop`] return.
pub fn interrupt_wait() {
    if GUARD.is_ours() {
        GUARD.send(0);
    }
}

/// Ends the guard, puts back what it found, and tells what was asked meanwhile. In a process that holds none (a
/// forked child) nothing was asked.
pub fn release_boot() -> Asked {
    if !is_guarding() {
        return Asked { stop: false, quiet: false };
    }
    let retaking = RETAKING.lock().unwrap_or_else(PoisonError::into_inner);
    GUARDING.store(false, SeqCst);
    for (signal, (found, flags)) in GUARDED.into_iter().zip(&FOUND) {
        // A process that is ending would be stopped by a TSTP before it is done.
        let keeps = is_ending(signal as libc::c_int) && found.load(SeqCst) == libc::SIG_DFL;
        if !keeps && disposition(signal).is_ok_and(|now| now.sa_sigaction == guard()) {
            let _ = dispose(signal, &action(found.load(SeqCst), flags.load(SeqCst)));
        }
    }
    drop(retaking);
    interrupt_wait();
    Asked { stop: STOP_ASKED.load(SeqCst), quiet: QUIET_ASKED.load(SeqCst) }
}

/// Whether this is a TSTP, for a process whose boot TERM is ending.
fn is_ending(number: libc::c_int) -> bool {
    number == libc::SIGTSTP && GUARD.is_ours() && STOP_ASKED.load(SeqCst)
}

fn guard() -> libc::sighandler_t {
    on_guarded as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as libc::sighandler_t
}

fn retake() -> nix::Result<()> {
    let _retaking = RETAKING.lock().unwrap_or_else(PoisonError::into_inner);
    for (signal, (found, flags)) in GUARDED.into_iter().zip(&FOUND) {
        let now = disposition(signal)?;
        if GUARDING.load(SeqCst) && now.sa_sigaction != guard() {
            flags.store(now.sa_flags, SeqCst);
            found.store(now.sa_sigaction, SeqCst);
            dispose(signal, &action(guard(), libc::SA_SIGINFO))?;
        }
    }
    Ok(())
}

extern "C" fn on_guarded(number: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if is_guarding() {
        tell_relay(number);
        // Another thread may release the guard meanwhile; then it may have been too late to be told of there.
        if number == libc::SIGTSTP {
            QUIET_ASKED.store(true, SeqCst);
            if is_guarding() {
                return;
            }
        } else {
            STOP_ASKED.store(true, SeqCst);
            if WAITED_FOR.load(SeqCst) {
                STOP_PENDING.store(true, SeqCst);
                GUARD.send(number);
                if is_guarding() || !STOP_PENDING.swap(false, SeqCst) {
                    return;
                }
            }
        }
    }
    hand_on(number, info, context);
}

/// Does what would have been done without the guard: in a forked child, or while nobody waits. Async-signal-safe.
fn hand_on(number: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let found = GUARDED.iter().zip(&FOUND).find(|(signal, _)| **signal as libc::c_int == number);
    let Some((signal, (handler, flags))) = found else { return };
    match handler.load(SeqCst) {
        libc::SIG_IGN => {}
        // It may have come before the guard was released, and its handler run after.
        libc::SIG_DFL if is_ending(number) => {}
        libc::SIG_DFL => {
            // Raised again, it takes effect when this handler returns and the signal is unblocked.
            let _ = dispose(*signal, &action(libc::SIG_DFL, 0));
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
