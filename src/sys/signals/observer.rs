//! Notes TERM, INT and TSTP the moment they arrive.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::disposition::{self, OBSERVED};
use super::relay_link;
use super::self_pipe::SelfPipe;
use crate::sys::outputs::Output;

static OBSERVER: SelfPipe = SelfPipe::new();
/// What the kernel calls for each of [`OBSERVED`] while the observer is armed.
static ARMED: [OnceLock<libc::sigaction>; OBSERVED.len()] = [const { OnceLock::new() }; OBSERVED.len()];

/// Which of [`OBSERVED`] have arrived.
static ARRIVED: [AtomicBool; OBSERVED.len()] = [const { AtomicBool::new(false) }; OBSERVED.len()];

/// Observes signals the moment they arrive.
#[derive(Debug)]
pub struct Observer {
    output: File,
}

impl Observer {
    /// Starts to observe in the calling process. Call it once Sidekiq has set its traps: every signal is passed on to
    /// the handler that is installed now.
    ///
    /// # Errors
    /// The system's error.
    pub fn arm() -> io::Result<Self> {
        let output = OBSERVER.open()?;
        for ((signal, armed), arrived) in OBSERVED.into_iter().zip(&ARMED).zip(&ARRIVED) {
            arrived.store(false, SeqCst);
            let number = signal as libc::c_int;
            if armed.get().is_some() {
                // Inherited from the process that forked this one.
                reinstall(signal)?;
                continue;
            }
            let report = move || {
                if OBSERVER.is_ours() {
                    arrived.store(true, SeqCst);
                    OBSERVER.send(number);
                    relay_link::notify(number);
                }
            };
            // SAFETY: `report` reads atomics, calls getpid and writes to a pipe, and nothing else.
            unsafe { signal_hook::low_level::register(number, report) }?;
            let now = disposition::disposition(signal)?;
            armed.get_or_init(|| now);
        }
        Ok(Self { output: File::from(output) })
    }

    /// Waits for the next signal. Returns without one when one of the `outputs` loses its reader, when the time is
    /// over, and when it is [woken](wake).
    ///
    /// # Errors
    /// There will be no more signals.
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
pub fn wake() {
    if OBSERVER.is_ours() {
        OBSERVER.send(0);
    }
}

/// Whether the signal has arrived since the observer was armed.
#[must_use]
pub fn has_arrived(signal: Signal) -> bool {
    OBSERVED.iter().zip(&ARRIVED).any(|(observed, arrived)| *observed == signal && arrived.load(SeqCst))
}

/// The signals whose handler has been replaced since the observer was armed.
#[must_use]
pub fn overridden() -> Vec<Signal> {
    let is_overridden = |signal: Signal, armed: &libc::sigaction| {
        disposition::disposition(signal).is_ok_and(|now| now.sa_sigaction != armed.sa_sigaction)
    };
    let armed = OBSERVED.into_iter().zip(&ARMED).filter_map(|(signal, armed)| Some((signal, armed.get()?)));
    armed.filter(|(signal, armed)| is_overridden(*signal, armed)).map(|(signal, _)| signal).collect()
}

/// Reinstalls the observer's handler. signal-hook cannot do that itself: it assumes that its handler stays once
/// installed. It passes signals on to Ruby's own handler, which runs whichever trap Ruby has now.
///
/// # Errors
/// The system's error.
pub fn reinstall(signal: Signal) -> nix::Result<()> {
    let armed = OBSERVED.into_iter().zip(&ARMED).find(|(observed, _)| *observed == signal);
    armed.and_then(|(_, armed)| armed.get()).map_or(Ok(()), |armed| disposition::set(signal, armed))
}
