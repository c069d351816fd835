//! What a service manager is told of a Sidekiq, and when: the assignments of sd_notify(3).

use std::fmt::Write as _;

use crate::model::state::State;
use crate::model::text::one_line;

/// A Sidekiq as the service manager is to see it.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Its state.
    pub state: State,
    /// It has finished with every job.
    pub drained: bool,
    /// Why it is not called ready although it is running.
    pub withheld: Option<&'a str>,
    /// Jobs in hand, as far as is known.
    pub busy: u32,
    /// Jobs that it can run at once.
    pub concurrency: Option<u32>,
    /// Seconds until it has ended, at the latest, once it was told to stop; 0 if they are over or not known.
    pub left: f64,
    /// The exit status, once it has stopped.
    pub exit_status: Option<i32>,
    /// What led to its state.
    pub why: Option<&'a str>,
    /// What is wrong, where its record cannot be written for now.
    pub late: Option<&'a str>,
}

/// What the service manager has been told, and need not be told again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// `READY=1`: the service is active.
    pub ready: bool,
    /// `STOPPING=1`: the service stops.
    pub stopping: bool,
}

impl Told {
    /// What it has been told once it knows of this situation.
    #[must_use]
    pub fn with(self, now: &Situation<'_>) -> Self {
        let is_up = matches!(now.state, State::Running | State::Quiet) && now.withheld.is_none();
        Self { ready: self.ready || is_up, stopping: self.stopping || now.state == State::Stopping }
    }
}

/// The message to send. `feeds` if Ruby's heart has just beaten and a watchdog waits for that.
///
/// A Sidekiq that was told to be quiet while it booted has started all the same, so it is ready for the service
/// manager, which would otherwise take it for one that has failed to start.
#[must_use]
pub fn notice(told: Told, now: &Situation<'_>, feeds: bool) -> String {
    let then = told.with(now);
    let mut lines = Vec::new();
    if then.ready && !told.ready {
        lines.push("READY=1".to_owned());
    }
    if then.stopping && !told.stopping {
        lines.push("STOPPING=1".to_owned());
    }
    lines.push(format!("STATUS={}", status(now)));
    if feeds {
        lines.push("WATCHDOG=1".to_owned());
    }
    if now.state == State::Stopping && !now.drained && now.left > 0.0 {
        lines.push(format!("EXTEND_TIMEOUT_USEC={}", microseconds(now.left)));
    }
    lines.join("\n")
}

/// The line that `systemctl status` shows.
fn status(now: &Situation<'_>) -> String {
    let mut text = now.state.to_string();
    match now.state {
        State::Booting => {}
        State::Running | State::Quiet | State::Stopping => {
            let _ = match (now.drained, now.concurrency) {
                (true, _) => write!(text, ", drained"),
                (false, Some(concurrency)) => write!(text, ", {} of {concurrency} busy", now.busy),
                (false, None) => write!(text, ", {} busy", now.busy),
            };
            if let Some(why) = now.withheld.filter(|_| now.state == State::Running) {
                let _ = write!(text, ", not called ready: {why}");
            }
        }
        State::Stopped => {
            let exit = now.exit_status.map(|status| format!("exit {status}"));
            let told: Vec<String> = exit.into_iter().chain(now.why.map(str::to_owned)).collect();
            if !told.is_empty() {
                let _ = write!(text, " ({})", told.join(", "));
            }
        }
    }
    if let Some(late) = now.late {
        let _ = write!(text, "; {late}");
    }
    // An assignment is a line; whatever an exception says, it is no further one.
    one_line(&text)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted here
fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6).ceil() as u64
}

/// The `WatchdogSec` that is advised: longer than the timeouts of a Redis client, as Sidekiq sets them, can silence its
/// heartbeat. `generate` writes the same (`plan.rb`).
const ADVISED: u32 = 60;

/// Who feeds the service manager's watchdog.
#[derive(Clone, Debug, PartialEq)]
pub enum Watchdog {
    /// There is none, or it waits for another process.
    None,
    /// Ruby's heart, within so many seconds.
    Heart(f64),
    /// Sidekiq's own thread goes on feeding it, for Ruby's heart is too slow; why, and what to do.
    Sidekiqs(String),
}

/// Who feeds the watchdog of `$WATCHDOG_USEC` and `$WATCHDOG_PID` in the process `own`, whose heart beats every `pause`
/// seconds. Two beats have to fit, so that one that comes late kills nobody.
#[must_use]
pub fn watchdog(usec: Option<&str>, pid: Option<&str>, own: i32, pause: f64) -> Watchdog {
    let limit = usec.and_then(|usec| usec.parse::<f64>().ok()).filter(|usec| *usec > 0.0).map(|usec| usec / 1e6);
    let is_ours = pid.is_none_or(|pid| pid == own.to_string());
    match limit.filter(|_| is_ours) {
        None => Watchdog::None,
        Some(limit) if limit >= 2.0 * pause => Watchdog::Heart(limit),
        Some(limit) => Watchdog::Sidekiqs(format!(
            "systemd's watchdog of {limit} s is shorter than two of Sidekiq's beats, which come every {pause} s; so it is left to \
             Sidekiq's own thread, which tells less: set WatchdogSec={ADVISED}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTING: Situation<'_> = Situation {
        state: State::Booting,
        drained: false,
        withheld: None,
        busy: 0,
        concurrency: Some(10),
        left: 0.0,
        exit_status: None,
        why: None,
        late: None,
    };
    const RUNNING: Situation<'_> = Situation { state: State::Running, busy: 3, ..BOOTING };
    const QUIET: Situation<'_> = Situation { state: State::Quiet, ..RUNNING };
    const STOPPING: Situation<'_> = Situation { state: State::Stopping, left: 29.0, ..RUNNING };
    const STOPPED: Situation<'_> = Situation { state: State::Stopped, left: 0.0, ..RUNNING };

    #[test]
    fn what_is_said_when() {
        let (new, up) = (Told::default(), Told { ready: true, stopping: false });
        let down = Told { ready: true, stopping: true };
        let drained = |situation| Situation { drained: true, busy: 0, ..situation };
        let table: &[(Told, Situation<'_>, bool, &str)] = &[
            (new, BOOTING, false, "STATUS=booting"),
            (new, RUNNING, false, "READY=1\nSTATUS=running, 3 of 10 busy"),
            (new, Situation { concurrency: None, ..RUNNING }, false, "READY=1\nSTATUS=running, 3 busy"),
            // What could not be said at the start is said at the next beat.
            (new, RUNNING, true, "READY=1\nSTATUS=running, 3 of 10 busy\nWATCHDOG=1"),
            (up, RUNNING, true, "STATUS=running, 3 of 10 busy\nWATCHDOG=1"),
            (up, RUNNING, false, "STATUS=running, 3 of 10 busy"),
            (
                new,
                Situation { withheld: Some("a SIGTERM is lost"), ..RUNNING },
                true,
                "STATUS=running, 3 of 10 busy, not called ready: a SIGTERM is lost\nWATCHDOG=1",
            ),
            // Quiet before it could be running.
            (new, QUIET, false, "READY=1\nSTATUS=quiet, 3 of 10 busy"),
            (up, QUIET, true, "STATUS=quiet, 3 of 10 busy\nWATCHDOG=1"),
            (up, drained(QUIET), false, "STATUS=quiet, drained"),
            (up, STOPPING, false, "STOPPING=1\nSTATUS=stopping, 3 of 10 busy\nEXTEND_TIMEOUT_USEC=29000000"),
            (down, STOPPING, true, "STATUS=stopping, 3 of 10 busy\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=29000000"),
            (
                down,
                Situation { left: 0.5, busy: 1, ..STOPPING },
                false,
                "STATUS=stopping, 1 of 10 busy\nEXTEND_TIMEOUT_USEC=500000",
            ),
            // Its time is over: it gets no more.
            (down, Situation { left: 0.0, ..STOPPING }, true, "STATUS=stopping, 3 of 10 busy\nWATCHDOG=1"),
            (down, Situation { left: -1.0, ..STOPPING }, false, "STATUS=stopping, 3 of 10 busy"),
            (down, drained(STOPPING), false, "STATUS=stopping, drained"),
            (up, drained(STOPPING), false, "STOPPING=1\nSTATUS=stopping, drained"),
            // Told to stop while it booted: never ready.
            (new, STOPPING, false, "STOPPING=1\nSTATUS=stopping, 3 of 10 busy\nEXTEND_TIMEOUT_USEC=29000000"),
            (new, STOPPED, false, "STATUS=stopped"),
            (
                new,
                Situation { exit_status: Some(1), why: Some("RuntimeError: no\nREADY=1"), ..STOPPED },
                false,
                "STATUS=stopped (exit 1, RuntimeError: no READY=1)",
            ),
            (
                down,
                Situation { exit_status: Some(0), why: Some("SIGTERM"), ..STOPPED },
                false,
                "STATUS=stopped (exit 0, SIGTERM)",
            ),
        ];
        for (told, situation, feeds, expected) in table {
            assert_eq!(notice(*told, situation, *feeds), *expected, "{told:?} {situation:?}");
        }
    }

    #[test]
    fn nothing_is_ready_or_stopping_twice() {
        let told = [BOOTING, RUNNING, QUIET, STOPPING, STOPPED].iter().fold(Told::default(), Told::with);
        assert_eq!(told, Told { ready: true, stopping: true });
        assert_eq!(Told::default().with(&STOPPED), Told::default());
        assert_eq!(Told::default().with(&Situation { withheld: Some("lost"), ..RUNNING }), Told::default());
    }

    #[test]
    fn who_feeds_the_watchdog() {
        let is_sidekiqs = |watchdog: &Watchdog| matches!(watchdog, Watchdog::Sidekiqs(_));
        for (usec, pid, pause) in [
            (None, None, 10.0),
            (None, Some("7"), 10.0),
            (Some(""), None, 10.0),
            (Some("0"), None, 10.0),
            (Some("soon"), None, 10.0),
            (Some("30000000"), Some("8"), 10.0),
        ] {
            assert_eq!(watchdog(usec, pid, 7, pause), Watchdog::None, "{usec:?} {pid:?}");
        }
        for (usec, pid, pause, limit) in
            [("30000000", None, 10.0, 30.0), ("20000000", Some("7"), 10.0, 20.0), ("10000000", None, 5.0, 10.0)]
        {
            assert_eq!(watchdog(Some(usec), pid, 7, pause), Watchdog::Heart(limit), "{usec} {pause}");
        }
        for (usec, pause) in [("19999999", 10.0), ("10000000", 10.0), ("9000000", 5.0), ("1", 5.0)] {
            assert!(is_sidekiqs(&watchdog(Some(usec), None, 7, pause)), "{usec} {pause}");
        }
        let Watchdog::Sidekiqs(problem) = watchdog(Some("10000000"), None, 7, 10.0) else { panic!("it is fed") };
        assert_eq!(
            problem,
            "systemd's watchdog of 10 s is shorter than two of Sidekiq's beats, which come every 10 s; so it is left to \
             Sidekiq's own thread, which tells less: set WatchdogSec=60"
        );
    }
}
