//! Whether a Sidekiq has enough time to stop: its shutdown timeout and the platform's stop timeout.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds that Sidekiq itself needs after its shutdown timeout (`-t`): it waits up to 3 s for the `ensure` blocks of
/// the jobs it has interrupted (`manager.rb`, `hard_shutdown`), then updates Redis and runs hooks and `at_exit`.
pub const EPILOGUE: f64 = 4.0;

/// Sidekiq's shutdown timeout if none is set (`config.rb`, `DEFAULTS`).
pub const DEFAULT_TIMEOUT: f64 = 25.0;

/// The smallest `-t` that loses nothing. An idle thread waits in BRPOP for up to 2 s (`fetch.rb`); it can take a job
/// that was just pushed back to Redis, and is killed with it.
pub const LEAST_TIMEOUT: f64 = 3.0;

/// Seconds that a busy machine may add.
const MARGIN: f64 = 1.0;

/// How long Sidekiq takes to stop at most: nothing should wait longer.
#[must_use]
pub fn longest_stop(need: Need) -> Duration {
    let seconds = need.timeout.unwrap_or(DEFAULT_TIMEOUT).max(0.0) + need.beside() + MARGIN;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Seconds that the platform leaves between SIGTERM and SIGKILL, and the source of that number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopTimeout {
    /// Infinite if the platform never kills.
    pub seconds: f64,
    /// The source of the number.
    pub source: Source,
}

/// Where the stop timeout comes from; the first source that has one is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `lifecycle.stop_timeout`.
    Setting,
    /// `$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT`.
    Environment,
    /// `$ECS_CONTAINER_STOP_TIMEOUT`.
    Ecs,
    /// The container's StopTimeout.
    Container(String),
    /// The default of Docker or Podman for a container, such as this one, without a StopTimeout.
    Engine(String),
    /// systemd's TimeoutStopSec for this unit.
    Systemd(String),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting => write!(out, "lifecycle.stop_timeout"),
            Self::Environment => write!(out, "$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT"),
            Self::Ecs => write!(out, "$ECS_CONTAINER_STOP_TIMEOUT"),
            Self::Container(id) => write!(out, "StopTimeout of container {id}; docker stop -t overrides it"),
            Self::Engine(id) => {
                write!(out, "the engine's default, as container {id} has no StopTimeout; docker stop -t overrides it")
            }
            Self::Systemd(unit) => write!(out, "TimeoutStopSec of {unit}"),
        }
    }
}

impl fmt::Display for StopTimeout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, source } = self;
        if seconds.is_infinite() {
            return write!(out, "infinite stop timeout ({source})");
        }
        write!(out, "stop timeout of {seconds} s ({source})")
    }
}

/// The time that a Sidekiq needs to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Need {
    /// Sidekiq's shutdown timeout (`-t`), in seconds.
    pub timeout: Option<f64>,
    /// Seconds that the application's own hooks take.
    pub hooks: f64,
}

impl Need {
    /// The total, in whole seconds; `None` while `-t` is not known.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        self.timeout.map(|timeout| (timeout + self.beside()).ceil())
    }

    /// The time needed on top of `-t`.
    fn beside(&self) -> f64 {
        EPILOGUE + self.hooks
    }

    /// In words: `-t 25 and Sidekiq's own 4 s`.
    #[must_use]
    pub fn words(&self) -> String {
        let timeout = self.timeout.map_or_else(|| "not known".to_owned(), |timeout| timeout.to_string());
        match self.hooks.ceil() {
            0.0 => format!("-t {timeout} and Sidekiq's own {EPILOGUE} s"),
            hooks => format!("-t {timeout}, Sidekiq's own {EPILOGUE} s and {hooks} s of the application's hooks"),
        }
    }
}

/// Whether a Sidekiq has enough time to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "fit", content = "words")]
pub enum Fit {
    /// The time is known, and enough.
    Fits(String),
    /// The time is known, and jobs are lost: what is too short, and which two values would fit.
    TooShort(String),
    /// The time is not known: what it must be.
    Unknown(String),
}

/// Compares the time needed with the time that the platform leaves.
#[must_use]
pub fn fit(need: Need, stop: Option<&StopTimeout>) -> Fit {
    let (Some(timeout), Some(needed)) = (need.timeout, need.seconds()) else {
        return Fit::Unknown(stop.map_or_else(
            || "neither -t nor the stop timeout is known".to_owned(),
            |stop| format!("-t is not known; {stop}"),
        ));
    };
    let parts = need.words();
    if let Some(stop) = stop.filter(|stop| stop.seconds < LEAST_TIMEOUT + need.beside()) {
        let least = needed.max((LEAST_TIMEOUT + need.beside()).ceil());
        let suits = timeout.max(LEAST_TIMEOUT);
        return Fit::TooShort(format!(
            "the {stop} is too short for any -t: Sidekiq needs {} s on top of -t, and a -t below {LEAST_TIMEOUT} loses jobs; \
             set the stop timeout to at least {least}, which suits -t {suits}",
            need.beside().ceil()
        ));
    }
    if timeout < LEAST_TIMEOUT {
        return Fit::TooShort(format!(
            "-t {timeout} is too short: an idle thread of Sidekiq waits up to 2 s for a job, and can lose one that was just \
             pushed back to Redis; set -t to at least {LEAST_TIMEOUT}, and the stop timeout to at least {}",
            (LEAST_TIMEOUT + need.beside()).ceil()
        ));
    }
    match stop {
        None => Fit::Unknown(format!(
            "the stop timeout is not known and must be at least {needed} s ({parts}): by default Docker and Compose leave 10 s, \
             Kubernetes and ECS 30 s, systemd 90 s; set lifecycle.stop_timeout to the platform's value"
        )),
        Some(stop) if timeout + need.beside() <= stop.seconds => Fit::Fits(format!("{parts} fit into the {stop}")),
        Some(stop) => Fit::TooShort(format!(
            "{parts} do not fit into the {stop}: set -t to at most {}, or the stop timeout to at least {needed}",
            (stop.seconds - need.beside()).floor()
        )),
    }
}

impl Fit {
    /// What is too short, if anything is.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::TooShort(words) => Some(words),
            Self::Fits(_) | Self::Unknown(_) => None,
        }
    }

    /// Why the time may not be enough, if it may not.
    #[must_use]
    pub fn doubt(&self) -> Option<&str> {
        match self {
            Self::TooShort(words) | Self::Unknown(words) => Some(words),
            Self::Fits(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stop() {
        for (timeout, hooks, seconds) in [
            (Some(8.0), 0.0, 13.0),
            (Some(8.0), 2.5, 15.5),
            (None, 0.0, 30.0),
            (Some(0.5), 0.0, 5.5),
            (Some(-3.0), 0.0, 5.0),
        ] {
            let longest = longest_stop(Need { timeout, hooks });
            assert_eq!(longest, Duration::from_secs_f64(seconds), "{timeout:?} {hooks}");
        }
        assert_eq!(longest_stop(need(f64::MAX, 0.0)), Duration::MAX);
    }

    fn stop(seconds: f64) -> StopTimeout {
        StopTimeout { seconds, source: Source::Setting }
    }

    fn need(timeout: f64, hooks: f64) -> Need {
        Need { timeout: Some(timeout), hooks }
    }

    #[test]
    fn timeouts_that_fit() {
        for (timeout, hooks, seconds) in [
            (25.0, 0.0, 30.0),
            (25.0, 0.0, 29.0),
            (8.0, 0.0, 12.0),
            (8.0, 3.0, 15.0),
            (3.0, 0.0, 7.0),
            (1e6, 0.0, f64::INFINITY),
        ] {
            let fit = fit(need(timeout, hooks), Some(&stop(seconds)));
            assert!(matches!(fit, Fit::Fits(_)) && fit.doubt().is_none(), "{timeout} {hooks} {seconds}");
        }
        let words = Fit::Fits(
            "-t 8, Sidekiq's own 4 s and 3 s of the application's hooks fit into the stop timeout of 15 s \
             (lifecycle.stop_timeout)"
                .to_owned(),
        );
        assert_eq!(fit(need(8.0, 2.5), Some(&stop(15.0))), words);
    }

    #[test]
    fn a_timeout_that_is_too_short_gives_two_numbers() {
        let table: &[(f64, f64, f64, &str)] = &[
            (
                25.0,
                0.0,
                10.0,
                "-t 25 and Sidekiq's own 4 s do not fit into the stop timeout of 10 s (lifecycle.stop_timeout): set -t to at \
                 most 6, or the stop timeout to at least 29",
            ),
            (25.0, 0.0, 28.5, "at most 24, or the stop timeout to at least 29"),
            (8.5, 0.0, 12.0, "at most 8, or the stop timeout to at least 13"),
            (8.0, 5.0, 12.0, "at most 3, or the stop timeout to at least 17"),
            (
                25.0,
                0.0,
                6.9,
                "the stop timeout of 6.9 s (lifecycle.stop_timeout) is too short for any -t: Sidekiq needs 4 s on top of -t, \
                 and a -t below 3 loses jobs; set the stop timeout to at least 29, which suits -t 25",
            ),
            (2.0, 0.0, 6.0, "at least 7, which suits -t 3"),
            (1.0, 0.0, 5.0, "at least 7, which suits -t 3"),
            (
                8.0,
                12.0,
                18.0,
                "Sidekiq needs 16 s on top of -t, and a -t below 3 loses jobs; set the stop timeout to at least 24, which suits -t 8",
            ),
            (
                1.0,
                0.0,
                f64::INFINITY,
                "-t 1 is too short: an idle thread of Sidekiq waits up to 2 s for a job, and can lose one that was just pushed \
                 back to Redis; set -t to at least 3, and the stop timeout to at least 7",
            ),
        ];
        for (timeout, hooks, seconds, expected) in table {
            let fit = fit(need(*timeout, *hooks), Some(&stop(*seconds)));
            assert!(fit.problem().is_some_and(|problem| problem.ends_with(expected)), "{fit:?}");
        }
        assert!(fit(need(2.9, 0.0), None).problem().is_some(), "whatever the platform leaves");
    }

    #[test]
    fn an_unknown_timeout_gives_the_time_needed() {
        let table = [
            (
                need(25.0, 0.0),
                None,
                "the stop timeout is not known and must be at least 29 s (-t 25 and Sidekiq's own 4 s): by default Docker and \
                 Compose leave 10 s, Kubernetes and ECS 30 s, systemd 90 s; set lifecycle.stop_timeout to the platform's value",
            ),
            (Need::default(), None, "neither -t nor the stop timeout is known"),
            (Need::default(), Some(stop(30.0)), "-t is not known; stop timeout of 30 s (lifecycle.stop_timeout)"),
        ];
        for (need, stop, words) in table {
            let fit = fit(need, stop.as_ref());
            assert_eq!(fit, Fit::Unknown(words.to_owned()));
            assert_eq!((fit.problem(), fit.doubt()), (None, Some(words)));
        }
    }

    #[test]
    fn the_time_needed() {
        assert_eq!(need(25.0, 0.0).seconds(), Some(29.0));
        assert_eq!(need(8.5, 1.2).seconds(), Some(14.0));
        assert_eq!(Need::default().seconds(), None);
    }

    #[test]
    fn sources() {
        let systemd = StopTimeout { seconds: 90.0, source: Source::Systemd("shop.service".to_owned()) };
        assert_eq!(systemd.to_string(), "stop timeout of 90 s (TimeoutStopSec of shop.service)");
        let never = StopTimeout { seconds: f64::INFINITY, ..systemd };
        assert_eq!(never.to_string(), "infinite stop timeout (TimeoutStopSec of shop.service)");
        let ecs = StopTimeout { seconds: 30.0, source: Source::Ecs };
        assert_eq!(ecs.to_string(), "stop timeout of 30 s ($ECS_CONTAINER_STOP_TIMEOUT)");
        let container = StopTimeout { source: Source::Container("0e8c7f66c719".to_owned()), ..ecs.clone() };
        assert_eq!(
            container.to_string(),
            "stop timeout of 30 s (StopTimeout of container 0e8c7f66c719; docker stop -t overrides it)"
        );
        let set = StopTimeout { source: Source::Environment, ..ecs };
        assert_eq!(set.to_string(), "stop timeout of 30 s ($SIDEKIQ_LIFECYCLE_STOP_TIMEOUT)");
    }
}
