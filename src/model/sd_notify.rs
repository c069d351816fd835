//! The messages to a service manager, and when they are due: the assignments of sd_notify(3).

use std::fmt::Write as _;

use crate::model::state::State;
use crate::model::text::one_line;

/// The state of a Sidekiq, for the service manager.
#[derive(Clone, Copy, Debug)]
pub struct StatusSnapshot<'a> {
    /// Its state.
    pub state: State,
    /// It has finished every job.
    pub drained: bool,
    /// Why it is not ready although it is running.
    pub withheld: Option<&'a str>,
    /// Running jobs, as far as is known.
    pub busy: u32,
    /// Their names, as a list for people; empty if they are not known.
    pub jobs: &'a str,
    /// How many jobs it can run at once.
    pub concurrency: Option<u32>,
    /// Seconds until it will have ended, at most, after a stop signal; 0 if they are over or not known.
    pub left: f64,
    /// The exit status, once it has stopped.
    pub exit_status: Option<i32>,
    /// What led to its state.
    pub why: Option<&'a str>,
    /// What is wrong, while its record cannot be written.
    pub late: Option<&'a str>,
}

/// What the service manager has been sent, and need not be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// `READY=1`: the service is active.
    pub ready: bool,
    /// `STOPPING=1`: the service stops.
    pub stopping: bool,
}

impl Sent {
    /// What it has been sent after the message for this snapshot.
    #[must_use]
    pub fn with(self, now: &StatusSnapshot<'_>) -> Self {
        let is_up = matches!(now.state, State::Running | State::Quiet) && now.withheld.is_none();
        Self { ready: self.ready || is_up, stopping: self.stopping || now.state == State::Stopping }
    }
}

/// The message to send. `feeds`: there was a heartbeat, and a watchdog waits for it.
///
/// A Sidekiq that was quieted while it booted has started all the same, so it is ready for the service manager, which
/// would otherwise conclude that the start failed.
#[must_use]
pub fn message(sent: Sent, now: &StatusSnapshot<'_>, feeds: bool) -> String {
    let then = sent.with(now);
    let mut lines = Vec::new();
    if then.ready && !sent.ready {
        lines.push("READY=1".to_owned());
    }
    if then.stopping && !sent.stopping {
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
fn status(now: &StatusSnapshot<'_>) -> String {
    let mut text = now.state.to_string();
    match now.state {
        State::Booting => {}
        State::Running | State::Quiet | State::Stopping => {
            let _ = match (now.drained, now.concurrency) {
                (true, _) => write!(text, ", drained"),
                (false, Some(concurrency)) => write!(text, ", {} of {concurrency} busy", now.busy),
                (false, None) => write!(text, ", {} busy", now.busy),
            };
            if now.state != State::Running && !now.drained && now.busy > 0 && !now.jobs.is_empty() {
                let _ = write!(text, ": {}", now.jobs);
            }
            if let Some(why) = now.withheld.filter(|_| now.state == State::Running) {
                let _ = write!(text, ", not ready: {why}");
            }
        }
        State::Stopped => {
            let exit = now.exit_status.map(|status| format!("exit {status}"));
            let parts: Vec<String> = exit.into_iter().chain(now.why.map(str::to_owned)).collect();
            if !parts.is_empty() {
                let _ = write!(text, " ({})", parts.join(", "));
            }
        }
    }
    if let Some(late) = now.late {
        let _ = write!(text, "; {late}");
    }
    // An assignment is one line; the text of an exception must not become another one.
    one_line(&text)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted here
fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6).ceil() as u64
}

/// The recommended `WatchdogSec`: longer than the timeouts of a Redis client, as Sidekiq sets them, can delay the
/// heartbeat. `generate` writes the same value (`plan.rb`).
const ADVISED: u32 = 60;

/// What feeds the service manager's watchdog.
#[derive(Clone, Debug, PartialEq)]
pub enum Watchdog {
    /// There is none, or it is for another process.
    None,
    /// The heartbeat, within this many seconds.
    Heart(f64),
    /// Sidekiq's own thread still feeds it, because the heartbeat is too slow; why, and what to do.
    Sidekiqs(String),
}

/// What feeds the watchdog of `$WATCHDOG_USEC` and `$WATCHDOG_PID` in the process `own`, with a heartbeat every
/// `pause` seconds. Two heartbeats must fit, so that a late one kills no process.
#[must_use]
pub fn watchdog(usec: Option<&str>, pid: Option<&str>, own: i32, pause: f64) -> Watchdog {
    let limit = usec.and_then(|usec| usec.parse::<f64>().ok()).filter(|usec| *usec > 0.0).map(|usec| usec / 1e6);
    let is_ours = pid.is_none_or(|pid| pid == own.to_string());
    match limit.filter(|_| is_ours) {
        None => Watchdog::None,
        Some(limit) if limit >= 2.0 * pause => Watchdog::Heart(limit),
        Some(limit) => Watchdog::Sidekiqs(format!(
            "systemd's watchdog of {limit} s is shorter than two heartbeats, one every {pause} s, so Sidekiq's own thread \
             feeds it, which detects less: set WatchdogSec={ADVISED}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTING: StatusSnapshot<'_> = StatusSnapshot {
        state: State::Booting,
        drained: false,
        withheld: None,
        busy: 0,
        jobs: "",
        concurrency: Some(10),
        left: 0.0,
        exit_status: None,
        why: None,
        late: None,
    };
    const RUNNING: StatusSnapshot<'_> = StatusSnapshot { state: State::Running, busy: 3, ..BOOTING };
    const QUIET: StatusSnapshot<'_> = StatusSnapshot { state: State::Quiet, ..RUNNING };
    const STOPPING: StatusSnapshot<'_> = StatusSnapshot { state: State::Stopping, left: 29.0, ..RUNNING };
    const STOPPED: StatusSnapshot<'_> = StatusSnapshot { state: State::Stopped, left: 0.0, ..RUNNING };

    #[test]
    fn messages_by_state() {
        let (new, up) = (Sent::default(), Sent { ready: true, stopping: false });
        let down = Sent { ready: true, stopping: true };
        let drained = |snapshot| StatusSnapshot { drained: true, busy: 0, ..snapshot };
        let table: &[(Sent, StatusSnapshot<'_>, bool, &str)] = &[
            (new, BOOTING, false, "STATUS=booting"),
            (new, RUNNING, false, "READY=1\nSTATUS=running, 3 of 10 busy"),
            (new, StatusSnapshot { concurrency: None, ..RUNNING }, false, "READY=1\nSTATUS=running, 3 busy"),
            // What could not be sent at the start is sent at the next heartbeat.
            (new, RUNNING, true, "READY=1\nSTATUS=running, 3 of 10 busy\nWATCHDOG=1"),
            (up, RUNNING, true, "STATUS=running, 3 of 10 busy\nWATCHDOG=1"),
            (up, RUNNING, false, "STATUS=running, 3 of 10 busy"),
            (
                new,
                StatusSnapshot { withheld: Some("a SIGTERM is lost"), ..RUNNING },
                true,
                "STATUS=running, 3 of 10 busy, not ready: a SIGTERM is lost\nWATCHDOG=1",
            ),
            (up, StatusSnapshot { jobs: "A 1", ..RUNNING }, false, "STATUS=running, 3 of 10 busy"),
            // Quiet before it could be running.
            (new, QUIET, false, "READY=1\nSTATUS=quiet, 3 of 10 busy"),
            (up, QUIET, true, "STATUS=quiet, 3 of 10 busy\nWATCHDOG=1"),
            (up, drained(QUIET), false, "STATUS=quiet, drained"),
            (up, STOPPING, false, "STOPPING=1\nSTATUS=stopping, 3 of 10 busy\nEXTEND_TIMEOUT_USEC=29000000"),
            (down, STOPPING, true, "STATUS=stopping, 3 of 10 busy\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=29000000"),
            (
                down,
                StatusSnapshot { left: 0.5, busy: 1, jobs: "A 1", ..STOPPING },
                false,
                "STATUS=stopping, 1 of 10 busy: A 1\nEXTEND_TIMEOUT_USEC=500000",
            ),
            // Its time is over: it gets no more.
            (down, StatusSnapshot { left: 0.0, ..STOPPING }, true, "STATUS=stopping, 3 of 10 busy\nWATCHDOG=1"),
            (down, StatusSnapshot { left: -1.0, ..STOPPING }, false, "STATUS=stopping, 3 of 10 busy"),
            (down, drained(STOPPING), false, "STATUS=stopping, drained"),
            (up, drained(STOPPING), false, "STOPPING=1\nSTATUS=stopping, drained"),
            // Stopped while it booted: never ready.
            (new, STOPPING, false, "STOPPING=1\nSTATUS=stopping, 3 of 10 busy\nEXTEND_TIMEOUT_USEC=29000000"),
            (new, STOPPED, false, "STATUS=stopped"),
            (
                new,
                StatusSnapshot { exit_status: Some(1), why: Some("RuntimeError: no\nREADY=1"), ..STOPPED },
                false,
                "STATUS=stopped (exit 1, RuntimeError: no READY=1)",
            ),
            (
                down,
                StatusSnapshot { exit_status: Some(0), why: Some("SIGTERM"), ..STOPPED },
                false,
                "STATUS=stopped (exit 0, SIGTERM)",
            ),
        ];
        for (sent, snapshot, feeds, expected) in table {
            assert_eq!(message(*sent, snapshot, *feeds), *expected, "{sent:?} {snapshot:?}");
        }
    }

    #[test]
    fn nothing_is_ready_or_stopping_twice() {
        let sent = [BOOTING, RUNNING, QUIET, STOPPING, STOPPED].iter().fold(Sent::default(), Sent::with);
        assert_eq!(sent, Sent { ready: true, stopping: true });
        assert_eq!(Sent::default().with(&STOPPED), Sent::default());
        assert_eq!(Sent::default().with(&StatusSnapshot { withheld: Some("lost"), ..RUNNING }), Sent::default());
    }

    #[test]
    fn what_feeds_the_watchdog() {
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
            "systemd's watchdog of 10 s is shorter than two heartbeats, one every 10 s, so Sidekiq's own thread \
             feeds it, which detects less: set WatchdogSec=60"
        );
    }
}
