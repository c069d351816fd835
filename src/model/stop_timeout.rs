//! Whether a Sidekiq has the time to end: its own timeout beside the platform's.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds that Sidekiq takes for itself once its timeout (`-t`) is over: it waits up to 3 s for the `ensure` blocks of
/// the jobs it has cut off (`manager.rb`, `hard_shutdown`); then Redis is told, and hooks and `at_exit` run.
pub const EPILOGUE: f64 = 4.0;

/// Sidekiq's own timeout where none is set (`config.rb`, `DEFAULTS`).
pub const DEFAULT_TIMEOUT: f64 = 25.0;

/// The least `-t` with which nothing is lost. An idle thread waits in BRPOP for up to 2 s (`fetch.rb`), takes what was pushed
/// back to Redis meanwhile, and is killed with it.
pub const LEAST_TIMEOUT: f64 = 3.0;

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
    /// `$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT`.
    Environment,
    /// `$ECS_CONTAINER_STOP_TIMEOUT`.
    Ecs,
    /// StopTimeout of this container.
    Container(String),
    /// What Docker or Podman leaves a container, such as this one, that does not say.
    Engine(String),
    /// systemd's TimeoutStopSec of this unit.
    Systemd(String),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting => write!(out, "lifecycle.stop_timeout"),
            Self::Environment => write!(out, "$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT"),
            Self::Ecs => write!(out, "$ECS_CONTAINER_STOP_TIMEOUT"),
            Self::Container(id) => write!(out, "StopTimeout of container {id}; docker stop -t may say otherwise"),
            Self::Engine(id) => {
                write!(out, "the engine's own, for container {id} has no StopTimeout; docker stop -t may say otherwise")
            }
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

/// What a Sidekiq takes to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Need {
    /// Sidekiq's own timeout (`-t`), in seconds.
    pub timeout: Option<f64>,
    /// Seconds that the application's own hooks took at an earlier stop.
    pub hooks: f64,
}

impl Need {
    /// All in all, in whole seconds; `None` while `-t` is not known.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        self.timeout.map(|timeout| (timeout + self.beside()).ceil())
    }

    /// What comes on top of `-t`.
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

/// Whether a Sidekiq is left the time that it takes to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "fit", content = "words")]
pub enum Fit {
    /// It is known, and is enough.
    Fits(String),
    /// It is known, and jobs are lost: what is too short, and the numbers of which one is to be set.
    TooShort(String),
    /// It is not known: what would have to be.
    Unknown(String),
}

/// Compares what is needed with what the platform leaves.
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
            "the {stop} is too short for any -t: Sidekiq needs {} s on top of it, and loses jobs with a -t below \
             {LEAST_TIMEOUT}; set the stop timeout to at least {least}, which suits -t {suits}",
            need.beside().ceil()
        ));
    }
    if timeout < LEAST_TIMEOUT {
        return Fit::TooShort(format!(
            "-t {timeout} is too short: an idle thread of Sidekiq waits up to 2 s for a job, and takes what was pushed back \
             to Redis meanwhile; set -t to at least {LEAST_TIMEOUT}, and the stop timeout to at least {}",
            (LEAST_TIMEOUT + need.beside()).ceil()
        ));
    }
    match stop {
        None => Fit::Unknown(format!(
            "the stop timeout is not known, and has to be at least {needed} s ({parts}): Docker and Compose leave 10 s, \
             Kubernetes and ECS 30 s, systemd 90 s, if nothing else is set; tell it with lifecycle.stop_timeout"
        )),
        Some(stop) if timeout + need.beside() <= stop.seconds => Fit::Fits(format!("{parts} fit into the {stop}")),
        Some(stop) => Fit::TooShort(format!(
            "{parts} do not fit into the {stop}: set -t to at most {}, or the stop timeout to at least {needed}",
            (stop.seconds - need.beside()).floor()
        )),
    }
}

impl Fit {
    /// What is too short, if something is.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::TooShort(words) => Some(words),
            Self::Fits(_) | Self::Unknown(_) => None,
        }
    }

    /// Why it cannot be called enough, if it cannot.
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
    fn how_long_a_stop_takes_at_the_most() {
        let table = [(Some(8.0), 13.0), (None, 30.0), (Some(0.5), 5.5), (Some(-3.0), 5.0)];
        for (timeout, seconds) in table {
            assert_eq!(longest_stop(timeout), Duration::from_secs_f64(seconds), "{timeout:?}");
        }
        assert_eq!(longest_stop(Some(f64::MAX)), Duration::MAX);
    }

    fn stop(seconds: f64) -> StopTimeout {
        StopTimeout { seconds, source: Source::Setting }
    }

    fn need(timeout: f64, hooks: f64) -> Need {
        Need { timeout: Some(timeout), hooks }
    }

    #[test]
    fn what_fits() {
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
    fn what_does_not_fit_says_the_two_numbers() {
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
                "the stop timeout of 6.9 s (lifecycle.stop_timeout) is too short for any -t: Sidekiq needs 4 s on top of it, \
                 and loses jobs with a -t below 3; set the stop timeout to at least 29, which suits -t 25",
            ),
            (2.0, 0.0, 6.0, "at least 7, which suits -t 3"),
            (1.0, 0.0, 5.0, "at least 7, which suits -t 3"),
            (
                8.0,
                12.0,
                18.0,
                "Sidekiq needs 16 s on top of it, and loses jobs with a -t below 3; set the stop timeout to at least 24, which suits -t 8",
            ),
            (
                1.0,
                0.0,
                f64::INFINITY,
                "-t 1 is too short: an idle thread of Sidekiq waits up to 2 s for a job, and takes what was pushed back to \
                 Redis meanwhile; set -t to at least 3, and the stop timeout to at least 7",
            ),
        ];
        for (timeout, hooks, seconds, expected) in table {
            let fit = fit(need(*timeout, *hooks), Some(&stop(*seconds)));
            assert!(fit.problem().is_some_and(|problem| problem.ends_with(expected)), "{fit:?}");
        }
        assert!(fit(need(2.9, 0.0), None).problem().is_some(), "whatever the platform leaves");
    }

    #[test]
    fn what_is_not_known_says_what_is_needed() {
        let table = [
            (
                need(25.0, 0.0),
                None,
                "the stop timeout is not known, and has to be at least 29 s (-t 25 and Sidekiq's own 4 s): Docker and Compose \
                 leave 10 s, Kubernetes and ECS 30 s, systemd 90 s, if nothing else is set; tell it with lifecycle.stop_timeout",
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
    fn what_is_needed() {
        assert_eq!(need(25.0, 0.0).seconds(), Some(29.0));
        assert_eq!(need(8.5, 1.2).seconds(), Some(14.0));
        assert_eq!(Need::default().seconds(), None);
    }

    #[test]
    fn who_says_so() {
        let systemd = StopTimeout { seconds: 90.0, source: Source::Systemd("shop.service".to_owned()) };
        assert_eq!(systemd.to_string(), "stop timeout of 90 s (TimeoutStopSec of shop.service)");
        let never = StopTimeout { seconds: f64::INFINITY, ..systemd };
        assert_eq!(never.to_string(), "stop timeout, which is infinite (TimeoutStopSec of shop.service)");
        let ecs = StopTimeout { seconds: 30.0, source: Source::Ecs };
        assert_eq!(ecs.to_string(), "stop timeout of 30 s ($ECS_CONTAINER_STOP_TIMEOUT)");
        let container = StopTimeout { source: Source::Container("0e8c7f66c719".to_owned()), ..ecs.clone() };
        assert_eq!(
            container.to_string(),
            "stop timeout of 30 s (StopTimeout of container 0e8c7f66c719; docker stop -t may say otherwise)"
        );
        let set = StopTimeout { source: Source::Environment, ..ecs };
        assert_eq!(set.to_string(), "stop timeout of 30 s ($SIDEKIQ_LIFECYCLE_STOP_TIMEOUT)");
    }
}
