//! Stalls: Ruby runs none of its threads while a job holds the GVL in native code. There is no heartbeat then, but
//! there is none while Redis hangs either, so Ruby is asked before a stall is reported.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::job::Job;
use crate::model::probe::MAX_BEAT_AGE;

/// How long heartbeats may be missing before Ruby is asked: half of the shortest time after which something kills a
/// process for it, a health check with `live` or a `watchdog` (in seconds) that the heartbeat feeds. Heartbeats come
/// every `pause` seconds, and one may be late.
#[must_use]
pub fn limit(watchdog: Option<f64>, pause: f64) -> Duration {
    let shortest = MAX_BEAT_AGE.as_secs_f64().min(watchdog.unwrap_or(f64::INFINITY));
    Duration::try_from_secs_f64((shortest / 2.0).max(1.5 * pause)).unwrap_or(MAX_BEAT_AGE)
}

/// Ruby's answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// None yet: the thread that was asked does not get to run.
    None,
    /// Its threads run.
    Given,
    /// No thread was listening.
    NotListening,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Wait,
    /// Ask Ruby.
    Ask,
    /// Report that Ruby runs none of its threads.
    Report,
}

/// Watches the heartbeat of one process, for a thread that wakes now and then.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    limit: Duration,
    /// Since when the heartbeat has been missing, as far as that is meaningful: the last one, or later.
    since: Option<Instant>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Listening,
    Asking,
    Reported,
}

impl Watch {
    /// Starts to watch.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, step: Step::Listening }
    }

    /// Checks the last `beat`, and Ruby's answer if it was asked.
    pub fn check(&mut self, now: Instant, beat: Option<Instant>, answer: Answer) -> Act {
        if beat > self.since {
            (self.since, self.step) = (beat, Step::Listening);
        }
        let Some(due) = self.due().filter(|due| now >= *due) else { return Act::Wait };
        // This thread did not run either: the whole process was stopped, or the machine was suspended.
        if now - due > self.patience() {
            (self.since, self.step) = (Some(now), Step::Listening);
            return Act::Wait;
        }
        match (self.step, answer) {
            (Step::Listening, _) => {
                self.step = Step::Asking;
                Act::Ask
            }
            (Step::Asking, Answer::None) => {
                self.step = Step::Reported;
                Act::Report
            }
            // Only the heartbeat is missing, or Ruby cannot be asked; tries again later.
            _ => {
                (self.since, self.step) = (Some(now), Step::Listening);
                Act::Wait
            }
        }
    }

    /// When to check again; `None`: not before the next heartbeat.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match (self.since, self.step) {
            (None, _) | (_, Step::Reported) => None,
            (Some(since), Step::Listening) => Some(since + (self.limit - self.patience())),
            (Some(since), Step::Asking) => Some(since + self.limit),
        }
    }

    /// How long Ruby may take to answer.
    fn patience(&self) -> Duration {
        self.limit / 4
    }
}

/// The problem while it lasts.
#[must_use]
pub fn stuck(silent: Duration, jobs: &BTreeMap<String, Job>) -> String {
    format!(
        "Ruby has had no heartbeat for {} s and switches no threads: native code holds the GVL. {}; see \
         docs/long-native-calls.md",
        silent.as_secs(),
        in_hand(jobs)
    )
}

/// The log line when it is over.
#[must_use]
pub fn over(silent: Duration, jobs: &str) -> String {
    format!("Ruby's threads run again after {} s without a heartbeat. {jobs}", silent.as_secs())
}

/// The running jobs, in words.
#[must_use]
pub fn in_hand(jobs: &BTreeMap<String, Job>) -> String {
    if jobs.is_empty() {
        return "No job is running".to_owned();
    }
    let jobs: Vec<String> = jobs.values().map(Job::name).collect();
    format!("Running jobs: {}", jobs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_shortest_limit() {
        for (watchdog, pause, seconds) in [
            (None, 10.0, 30.0),
            (Some(60.0), 10.0, 30.0),
            (Some(120.0), 10.0, 30.0),
            (Some(40.0), 10.0, 20.0),
            // A late heartbeat is not a missing one.
            (Some(20.0), 10.0, 15.0),
            (Some(2.0), 0.2, 1.0),
        ] {
            assert_eq!(limit(watchdog, pause).as_secs_f64(), seconds, "{watchdog:?} {pause}");
        }
    }

    #[test]
    fn missing_heartbeats() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let due = |watch: &Watch| watch.due().map(|due| (due - start).as_secs_f64());
        // Seconds, the last heartbeat, the answer; what to do, and when to check again.
        type Row = (f64, Option<f64>, Answer, Act, Option<f64>);
        let play = |rows: &[Row]| {
            let mut watch = Watch::new(Duration::from_secs(40));
            for (now, beat, answer, act, next) in rows {
                assert_eq!(watch.check(at(*now), beat.map(at), *answer), *act, "{now} {watch:?}");
                assert_eq!(due(&watch), *next, "{now} {watch:?}");
            }
        };
        use Act::{Ask, Report, Wait};
        use Answer::{Given, None as Nothing, NotListening};
        // No heartbeat yet; one; a stall, reported once; a heartbeat.
        play(&[
            (0.0, None, Nothing, Wait, None),
            (1.0, Some(1.0), Nothing, Wait, Some(31.0)),
            (31.0, Some(21.0), Nothing, Wait, Some(51.0)),
            (51.0, Some(21.0), Nothing, Ask, Some(61.0)),
            (55.0, Some(21.0), Nothing, Wait, Some(61.0)),
            (61.0, Some(21.0), Nothing, Report, None),
            (99.0, Some(21.0), Nothing, Wait, None),
            (120.0, Some(120.0), Nothing, Wait, Some(150.0)),
        ]);
        // Ruby answers: Redis delays the heartbeat. Then Ruby stalls as well.
        play(&[
            (0.0, Some(0.0), Nothing, Wait, Some(30.0)),
            (30.0, Some(0.0), Nothing, Ask, Some(40.0)),
            (40.0, Some(0.0), Given, Wait, Some(70.0)),
            (70.0, Some(0.0), Given, Ask, Some(80.0)),
            (80.0, Some(0.0), Nothing, Report, None),
        ]);
        // A heartbeat while Ruby is asked; and no thread listens.
        play(&[
            (30.0, Some(0.0), Nothing, Ask, Some(40.0)),
            (40.0, Some(35.0), Nothing, Wait, Some(65.0)),
            (65.0, Some(35.0), NotListening, Ask, Some(75.0)),
            (75.0, Some(35.0), NotListening, Wait, Some(105.0)),
        ]);
        // Stopped and continued, with or without a question in between.
        play(&[
            (0.0, Some(0.0), Nothing, Wait, Some(30.0)),
            (500.0, Some(0.0), Nothing, Wait, Some(530.0)),
            (530.0, Some(0.0), Nothing, Ask, Some(540.0)),
            (900.0, Some(0.0), Nothing, Wait, Some(930.0)),
        ]);
    }

    #[test]
    fn messages() {
        let none = BTreeMap::new();
        let jobs = [("1a", "Pdf"), ("2b", "Mail")]
            .map(|(jid, class)| {
                (jid.to_owned(), Job { class: Some(class.into()), jid: Some(jid.into()), ..Job::default() })
            })
            .into();
        assert_eq!(
            stuck(Duration::from_millis(30_900), &jobs),
            "Ruby has had no heartbeat for 30 s and switches no threads: native code holds the GVL. Running jobs: Pdf \
             1a, Mail 2b; see docs/long-native-calls.md"
        );
        assert!(stuck(Duration::ZERO, &none).contains("the GVL. No job is running; see docs/"));
        assert_eq!(
            over(Duration::from_secs(100), &in_hand(&jobs)),
            "Ruby's threads run again after 100 s without a heartbeat. Running jobs: Pdf 1a, Mail 2b"
        );
    }
}
