//! The time that the application's own hooks take when a Sidekiq stops: `:quiet`, `:shutdown`, `:exit`, `at_exit`.
//! The platform must leave that time on top of `-t` and the time that Sidekiq itself needs.

use std::time::{Duration, Instant};

/// Hooks that take longer are reported.
const LONG: f64 = 1.0;

/// No hooks take longer; a record with more was not written by this gem.
const LONGEST: f64 = 86400.0;

/// How long the hooks of one process have taken.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// How long they took at the last stop before this process.
    before: Option<f64>,
    running: Option<Running>,
    /// The hooks that have ended: their names and seconds.
    taken: Vec<(String, f64)>,
}

#[derive(Clone, Debug)]
struct Running {
    name: String,
    /// From when on they count.
    since: Instant,
    /// When to check them again.
    due: Instant,
}

impl Hooks {
    /// Remembers an earlier stop; of several the longest one, because processes share a directory.
    pub fn remember(&mut self, seconds: f64) {
        let is_sound = seconds.is_finite() && (0.0..=LONGEST).contains(&seconds);
        self.before = self.before.into_iter().chain(is_sound.then_some(seconds)).reduce(f64::max);
    }

    /// Hooks with this name start. Their first `free` seconds do not count: jobs run meanwhile.
    pub fn start(&mut self, name: String, free: f64, now: Instant) {
        self.end(now);
        let since = Duration::try_from_secs_f64(free).ok().and_then(|free| now.checked_add(free)).unwrap_or(now);
        self.running =
            Some(Running { name, since, due: since.checked_add(Duration::from_secs_f64(LONG)).unwrap_or(since) });
    }

    /// The hooks have ended.
    pub fn end(&mut self, now: Instant) {
        if let Some(Running { name, since, .. }) = self.running.take() {
            self.taken.push((name, now.saturating_duration_since(since).as_secs_f64()));
        }
    }

    /// Seconds that the hooks of this stop have taken so far.
    #[must_use]
    pub fn so_far(&self, now: Instant) -> f64 {
        let running = self.running.as_ref().map(|running| now.saturating_duration_since(running.since).as_secs_f64());
        self.taken.iter().map(|(_, seconds)| *seconds).chain(running).sum()
    }

    /// Seconds that earlier hooks have taken, and these have not yet.
    #[must_use]
    pub fn to_come(&self, now: Instant) -> f64 {
        (self.before.unwrap_or_default() - self.so_far(now)).max(0.0)
    }

    /// Seconds that whatever waits for the end of this stop must grant the hooks: what the running ones need until they are
    /// [checked](Self::check) is part of it, and a second for a busy machine.
    #[must_use]
    pub fn to_grant(&self) -> f64 {
        let until_check = |running: &Running| running.due.saturating_duration_since(running.since).as_secs_f64() + LONG;
        let so_far = self.taken.iter().map(|(_, seconds)| *seconds).chain(self.running.as_ref().map(until_check)).sum();
        self.before.unwrap_or_default().max(so_far)
    }

    /// What to record for later. A completed stop replaces what was known, because a hook may have been fixed; one
    /// that may be killed at any moment does not reduce it.
    #[must_use]
    pub fn to_record(&self, now: Instant, is_over: bool) -> Option<f64> {
        if self.taken.is_empty() && self.running.is_none() {
            return self.before;
        }
        let seconds = (self.so_far(now) * 1000.0).round() / 1000.0;
        Some(if is_over { seconds } else { seconds.max(self.before.unwrap_or_default()) })
    }

    /// When to [check](Self::check) the running hooks: after a second, and whenever they have taken twice as long.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.due)
    }

    /// Whether they have been running for so long that it is to be reported, and recorded again.
    pub fn check(&mut self, now: Instant) -> bool {
        let Some(running) = self.running.as_mut().filter(|running| now >= running.due) else { return false };
        let taken = now - running.since;
        running.due = now + taken;
        true
    }

    /// What is wrong with them, in one sentence: while they run, or after they have ended.
    #[must_use]
    pub fn problem(&self, now: Instant) -> Option<String> {
        const ADVICE: &str = "the platform must leave them that time on top of -t and Sidekiq's own 4 s";
        let is_long = |running: &&Running| now.saturating_duration_since(running.since).as_secs_f64() >= LONG;
        if let Some(running) = self.running.as_ref().filter(is_long) {
            let name = &running.name;
            return Some(format!("{name} hooks have been delaying the stop for more than {LONG} s: {ADVICE}"));
        }
        let seconds: f64 = self.taken.iter().map(|(_, seconds)| *seconds).sum();
        let taken = self.taken.iter().filter(|(_, seconds)| *seconds >= LONG / 10.0);
        let taken: Vec<String> = taken.map(|(name, seconds)| format!("{name} {seconds:.1} s")).collect();
        let taken = taken.join(", ");
        (seconds >= LONG).then(|| format!("hooks took {seconds:.1} s of this stop ({taken}): {ADVICE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_longest_stop_is_remembered() {
        let now = Instant::now();
        for (seconds, expected) in [
            (&[][..], None),
            (&[0.0], Some(0.0)),
            (&[3.0, 12.0, 5.0], Some(12.0)),
            (&[-1.0, f64::NAN, f64::INFINITY, 1e9], None),
        ] {
            let mut hooks = Hooks::default();
            seconds.iter().for_each(|seconds| hooks.remember(*seconds));
            assert_eq!((hooks.to_record(now, false), hooks.to_record(now, true)), (expected, expected), "{seconds:?}");
        }
    }

    #[test]
    fn the_time_that_hooks_take() {
        let start = Instant::now();
        let mut hooks = Hooks::default();
        hooks.remember(5.0);
        assert_eq!((hooks.due(), hooks.problem(start), hooks.to_come(start)), (None, None, 5.0));
        hooks.start(":quiet".to_owned(), 0.0, start);
        assert_eq!((hooks.due(), hooks.problem(start)), (Some(at(start, 1.0)), None));
        assert!(!hooks.check(at(start, 0.9)) && hooks.check(at(start, 1.5)));
        assert_eq!(hooks.due(), Some(at(start, 3.0)));
        assert_eq!((hooks.to_record(at(start, 3.0), false), hooks.to_come(at(start, 3.0))), (Some(5.0), 2.0));
        assert_eq!((hooks.to_record(at(start, 8.0), false), hooks.to_come(at(start, 8.0))), (Some(8.0), 0.0));
        assert_eq!(
            hooks.problem(at(start, 2.0)).unwrap(),
            ":quiet hooks have been delaying the stop for more than 1 s: the platform must leave them that time on top of \
             -t and Sidekiq's own 4 s"
        );
        hooks.end(at(start, 2.0));
        // While jobs run.
        hooks.start(":shutdown".to_owned(), 8.0, at(start, 2.0));
        assert_eq!((hooks.due(), hooks.problem(at(start, 9.0)).is_some()), (Some(at(start, 11.0)), true));
        hooks.start("at_exit".to_owned(), 0.0, at(start, 9.0));
        hooks.end(at(start, 10.5));
        hooks.end(at(start, 20.0));
        assert_eq!(
            (hooks.to_record(at(start, 20.0), false), hooks.to_record(at(start, 20.0), true)),
            (Some(5.0), Some(3.5))
        );
        assert_eq!(
            hooks.problem(at(start, 20.0)).unwrap(),
            "hooks took 3.5 s of this stop (:quiet 2.0 s, at_exit 1.5 s): the platform must leave them that time on top \
             of -t and Sidekiq's own 4 s"
        );
    }

    #[test]
    fn whoever_waits_grants_them_time() {
        let start = Instant::now();
        let mut hooks = Hooks::default();
        assert_eq!(hooks.to_grant(), 0.0);
        hooks.start(":quiet".to_owned(), 0.0, start);
        assert_eq!(hooks.to_grant(), 2.0, "until the first check, and a second more");
        assert!(hooks.check(at(start, 1.0)));
        assert_eq!(hooks.to_grant(), 3.0);
        assert!(hooks.check(at(start, 2.5)));
        assert_eq!(hooks.to_grant(), 6.0);
        hooks.end(at(start, 4.0));
        assert_eq!(hooks.to_grant(), 4.0);
        hooks.start(":shutdown".to_owned(), 8.0, at(start, 4.0));
        assert_eq!(hooks.to_grant(), 6.0);
        hooks.end(at(start, 5.0));
        assert_eq!(hooks.to_grant(), 4.0);
        hooks.remember(9.0);
        assert_eq!(hooks.to_grant(), 9.0, "as at an earlier stop");
    }

    #[test]
    fn quick_hooks_are_not_a_problem() {
        let start = Instant::now();
        let mut hooks = Hooks::default();
        for (second, name) in [(0.0, ":quiet"), (0.5, ":shutdown"), (0.8, "at_exit")] {
            hooks.start(name.to_owned(), 0.0, at(start, second));
        }
        hooks.end(at(start, 0.9));
        assert_eq!((hooks.problem(at(start, 9.0)), hooks.to_record(at(start, 9.0), true)), (None, Some(0.9)));
    }

    #[test]
    fn any_timeout_can_be_handled() {
        let now = Instant::now();
        for free in [1e18, 1.8e19, f64::MAX, f64::INFINITY, f64::NAN, -1.0] {
            let mut hooks = Hooks::default();
            hooks.start(":shutdown".to_owned(), free, now);
            assert_eq!(hooks.so_far(now), 0.0, "{free}");
        }
    }
}
