//! Whether a Sidekiq has the time to end: its own timeout beside the platform's.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Seconds that Sidekiq takes for itself once its timeout (`-t`) is over: it waits up to 3 s for the `ensure` blocks of
/// the jobs it has cut off (`manager.rb`, `hard_shutdown`); then Redis is told, and hooks and `at_exit` run.
pub const EPILOGUE: f64 = 4.0;

/// Sidekiq's own timeout where none is set (`config.rb`, `DEFAULTS`).
pub const DEFAULT_TIMEOUT: f64 = 25.0;

/// Seconds that a busy machine may add to what Sidekiq takes.
const MARGIN: f64 = 1.0;

/// How long Sidekiq takes to stop at the most, for its timeout (`-t`) in seconds: nobody is to wait for longer.
#[must_use]
pub fn longest_stop(timeout: Option<f64>) -> Duration {
    let seconds = timeout.unwrap_or(DEFAULT_TIMEOUT).max(0.0) + EPILOGUE + MARGIN;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Seconds that the platform leaves between SIGTERM and SIGKILL, and who says so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopTimeout {
    /// Infinite where the platform never kills.
    pub seconds: f64,
    /// Who says so.
    pub source: Source,
}

/// Who says how long the stop timeout is; the first one that does counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `lifecycle.stop_timeout`.
    Setting,
    /// `$ECS_CONTAINER_STOP_TIMEOUT`.
    Ecs,
    /// systemd's TimeoutStopSec of this unit.
    Systemd(String),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting => write!(out, "lifecycle.stop_timeout"),
            Self::Ecs => write!(out, "$ECS_CONTAINER_STOP_TIMEOUT"),
            Self::Systemd(unit) => write!(out, "TimeoutStopSec of {unit}"),
        }
    }
}

impl fmt::Display for StopTimeout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, source } = self;
        if seconds.is_infinite() {
            return write!(out, "stop timeout, which is infinite ({source})");
        }
        write!(out, "stop timeout of {seconds} s ({source})")
    }
}

/// What is wrong with Sidekiq's `timeout` beside the platform's, and the two numbers of which one is to be set; `None` if
/// it fits.
#[must_use]
pub fn problem(timeout: f64, stop: &StopTimeout) -> Option<String> {
    let needed = (timeout + EPILOGUE).ceil();
    if timeout + EPILOGUE <= stop.seconds {
        return None;
    }
    // Sidekiq takes no -t below 1 (cli.rb, validate!).
    let most = (stop.seconds - EPILOGUE).floor();
    Some(if most >= 1.0 {
        format!(
            "-t {timeout} and Sidekiq's own {EPILOGUE} s do not fit into the {stop}: set -t to at most {most}, or the stop \
             timeout to at least {needed}"
        )
    } else {
        format!(
            "the {stop} is too short for any -t, for Sidekiq takes {EPILOGUE} s of its own: set the stop timeout to at \
             least {needed}, which suits -t {timeout}"
        )
    })
}

/// A stretch of time for people, in its two largest units.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted here
pub fn stretch(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// Reads `$ECS_CONTAINER_STOP_TIMEOUT`: a duration as Go writes it ("30s", "1m30s"), or plain seconds.
#[must_use]
pub fn parse_go(text: &str) -> Option<f64> {
    parse_time(text).filter(|seconds| *seconds > 0.0)
}

/// Reads a time as people write it: as in Go, or plain seconds.
#[must_use]
pub fn parse_time(text: &str) -> Option<f64> {
    let units = [("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)];
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_plain { text.parse().ok() } else { parse(text, &units) }
}

/// Reads a time span as systemctl(1) shows it: "1min 30s", "infinity" (systemd.time(7)).
#[must_use]
pub fn parse_systemd(text: &str) -> Option<f64> {
    let day = 86400.0;
    let units = [
        ("y", 365.25 * day),
        ("month", 30.4375 * day),
        ("w", 7.0 * day),
        ("d", day),
        ("h", 3600.0),
        ("min", 60.0),
        ("s", 1.0),
        ("ms", 1e-3),
        ("us", 1e-6),
    ];
    if text == "infinity" { Some(f64::INFINITY) } else { parse(text, &units) }
}

/// Numbers with a unit each, with or without spaces between.
fn parse(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|letter: char| !letter.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after.trim_start();
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_stop_takes_at_the_most() {
        let table = [(Some(8.0), 13.0), (None, 30.0), (Some(0.5), 5.5), (Some(-3.0), 5.0)];
        for (timeout, seconds) in table {
            assert_eq!(longest_stop(timeout), Duration::from_secs_f64(seconds), "{timeout:?}");
        }
        assert_eq!(longest_stop(Some(f64::MAX)), Duration::MAX);
    }

    #[test]
    fn stretches_of_time() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min 0 s"),
            (3599.0, "59 min 59 s"),
            (3661.0, "1 h 1 min"),
            (90061.0, "1 d 1 h"),
            (-1.0, "0 s"),
        ] {
            assert_eq!(stretch(seconds), text);
        }
    }

    fn stop(seconds: f64) -> StopTimeout {
        StopTimeout { seconds, source: Source::Setting }
    }

    #[test]
    fn what_fits() {
        for (timeout, seconds) in [(25.0, 30.0), (25.0, 29.0), (8.0, 12.0), (1.0, 5.0), (1e6, f64::INFINITY)] {
            assert_eq!(problem(timeout, &stop(seconds)), None, "{timeout} {seconds}");
        }
    }

    #[test]
    fn what_does_not_fit_says_the_two_numbers() {
        let table: &[(f64, f64, &str)] = &[
            (
                25.0,
                10.0,
                "-t 25 and Sidekiq's own 4 s do not fit into the stop timeout of 10 s (lifecycle.stop_timeout): set -t to at \
                 most 6, or the stop timeout to at least 29",
            ),
            (25.0, 28.5, "at most 24, or the stop timeout to at least 29"),
            (8.5, 12.0, "at most 8, or the stop timeout to at least 13"),
            (2.0, 5.0, "at most 1, or the stop timeout to at least 6"),
            (
                25.0,
                4.9,
                "the stop timeout of 4.9 s (lifecycle.stop_timeout) is too short for any -t, for Sidekiq takes 4 s of its \
                 own: set the stop timeout to at least 29, which suits -t 25",
            ),
            (1.0, 2.0, "at least 5, which suits -t 1"),
        ];
        for (timeout, seconds, expected) in table {
            let problem = problem(*timeout, &stop(*seconds)).unwrap();
            assert!(problem.ends_with(expected), "{problem}");
        }
    }

    #[test]
    fn who_says_so() {
        let systemd = StopTimeout { seconds: 90.0, source: Source::Systemd("shop.service".to_owned()) };
        assert_eq!(systemd.to_string(), "stop timeout of 90 s (TimeoutStopSec of shop.service)");
        let never = StopTimeout { seconds: f64::INFINITY, ..systemd };
        assert_eq!(never.to_string(), "stop timeout, which is infinite (TimeoutStopSec of shop.service)");
        let ecs = StopTimeout { seconds: 30.0, source: Source::Ecs };
        assert_eq!(ecs.to_string(), "stop timeout of 30 s ($ECS_CONTAINER_STOP_TIMEOUT)");
    }

    #[test]
    fn durations_of_go() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("2m", 120.0),
            ("1m30s", 90.0),
            ("1.5h", 5400.0),
            ("1500ms", 1.5),
            ("1h2m3s", 3723.0),
            ("30", 30.0),
            ("0.5", 0.5),
        ] {
            assert_eq!(parse_go(text), Some(seconds), "{text}");
        }
        for text in ["", "s", "30x", "-5s", "0", "0s", "1min", "30s!", "3.4.5s", "30 seconds"] {
            assert_eq!(parse_go(text), None, "{text}");
        }
    }

    #[test]
    fn time_spans_of_systemd() {
        for (text, seconds) in [
            ("1min 30s", 90.0),
            ("500ms", 0.5),
            ("2h", 7200.0),
            ("infinity", f64::INFINITY),
            ("1w 1d", 691_200.0),
            ("0s", 0.0),
        ] {
            assert_eq!(parse_systemd(text), Some(seconds), "{text}");
        }
        for text in ["", "90", "soon", "1min 30"] {
            assert_eq!(parse_systemd(text), None, "{text}");
        }
    }
}
