//! Which signal the relay sends the worker in place of one that it withholds from a shell, if any.
//!
//! A worker is sent only signals that it handles. The default action of any other signal here would end or stop it,
//! while without the gem such a signal had no effect: a shell that is PID 1 never gets it.

use nix::libc;

/// The signals that are withheld from a shell without a handler for them.
pub const FORWARDED: [i32; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGUSR1, libc::SIGUSR2];

/// The signals for which Ruby itself has a handler that raises an exception; the kernel does not show whether the
/// application has a trap for them (`signal.c` of Ruby, `install_sighandler`).
pub const RUBYS_OWN: [i32; 3] = [libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// What is known about a worker's handlers. Bit n - 1 is signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handlers {
    /// Signals with a handler, according to the kernel (`SigCgt` in /proc/PID/status); `None` if it cannot be read.
    pub caught: Option<u64>,
    /// Of [`RUBYS_OWN`], those for which the application has set traps.
    pub trapped: u64,
}

/// The signal to send to the worker in place of one that was sent to a shell; `None` if the worker does not handle
/// it. QUIT becomes TERM: it stops images derived from nginx's and php-fpm's, and Sidekiq does not handle it.
#[must_use]
pub fn forwarded(signal: i32, handlers: Handlers) -> Option<i32> {
    let is_trapped = has(handlers.trapped, signal);
    match signal {
        libc::SIGTERM | libc::SIGINT => Some(signal),
        libc::SIGQUIT if !is_trapped => Some(libc::SIGTERM),
        libc::SIGQUIT | libc::SIGUSR1 | libc::SIGUSR2 => Some(signal).filter(|_| is_trapped),
        _ => Some(signal).filter(|signal| handlers.caught.is_none_or(|caught| has(caught, *signal))),
    }
}

/// Whether the signal stops a worker.
#[must_use]
pub fn stops(signal: i32) -> bool {
    matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)
}

/// Whether the signal suspends a process that has no handler for it.
#[must_use]
pub fn suspends(signal: i32) -> bool {
    matches!(signal, libc::SIGTSTP | libc::SIGTTIN)
}

/// The set with the signal in it.
#[must_use]
pub fn with(mask: u64, signal: i32) -> u64 {
    mask | bit(signal)
}

/// Whether the signal is in the set.
#[must_use]
pub fn has(mask: u64, signal: i32) -> bool {
    mask & bit(signal) != 0
}

fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_a_worker_gets() {
        use libc::{SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGUSR1, SIGUSR2};
        let mask = |signals: &[i32]| signals.iter().fold(0, |mask, signal| with(mask, *signal));
        // The handlers of a Sidekiq: its own traps, and what Ruby itself catches.
        let sidekiq = Handlers {
            caught: Some(mask(&[SIGTERM, SIGINT, SIGTSTP, SIGTTIN, SIGQUIT, SIGUSR1, SIGUSR2])),
            trapped: 0,
        };
        let with_traps = Handlers { trapped: mask(&[SIGUSR2, SIGQUIT]), ..sidekiq };
        let booting = Handlers { caught: Some(mask(&[SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2])), trapped: 0 };
        let hidden = Handlers::default();
        let table: &[(Handlers, i32, Option<i32>)] = &[
            (sidekiq, SIGTERM, Some(SIGTERM)),
            (sidekiq, SIGINT, Some(SIGINT)),
            (sidekiq, SIGQUIT, Some(SIGTERM)),
            (sidekiq, SIGTSTP, Some(SIGTSTP)),
            (sidekiq, SIGTTIN, Some(SIGTTIN)),
            (sidekiq, SIGUSR1, None),
            (sidekiq, SIGUSR2, None),
            (with_traps, SIGQUIT, Some(SIGQUIT)),
            (with_traps, SIGUSR1, None),
            (with_traps, SIGUSR2, Some(SIGUSR2)),
            // The signal would suspend it.
            (booting, SIGTSTP, None),
            (booting, SIGTTIN, None),
            (booting, SIGTERM, Some(SIGTERM)),
            (hidden, SIGTSTP, Some(SIGTSTP)),
            (hidden, SIGUSR1, None),
        ];
        for (handlers, signal, expected) in table {
            assert_eq!(forwarded(*signal, *handlers), *expected, "{handlers:?} {signal}");
        }
    }

    #[test]
    fn what_signals_do() {
        use libc::{SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGUSR1, SIGUSR2};
        let (stop, suspend, neither) = ((true, false), (false, true), (false, false));
        for (signal, expected) in [
            (SIGTERM, stop),
            (SIGINT, stop),
            (SIGQUIT, stop),
            (SIGTSTP, suspend),
            (SIGTTIN, suspend),
            (SIGUSR1, neither),
            (SIGUSR2, neither),
        ] {
            assert_eq!((stops(signal), suspends(signal)), expected, "{signal}");
        }
    }

    #[test]
    fn all_signals_fit() {
        assert_eq!(with(0, 1), 1);
        assert_eq!(with(0, 64), 1 << 63);
        assert_eq!((with(0, 0), with(0, 65)), (0, 0));
    }
}
