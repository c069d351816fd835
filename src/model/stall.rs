//! When Ruby lets none of its threads run: a job that holds Ruby's lock in native code. Its heart is silent then, but it is
//! also silent while Redis hangs; so Ruby is asked, before anything is said.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::probe::MAX_BEAT_AGE;

/// How long a silent heart says nothing: half of the shortest time after which somebody kills a process for it, a health
/// check that asks for `live` or a `watchdog` (in seconds) that the heart feeds. Beats come every `pause` seconds, and one
/// may come late.
#[must_use]
pub fn limit(watchdog: Option<f64>, pause: f64) -> Duration {
    let shortest = MAX_BEAT_AGE.as_secs_f64().min(watchdog.unwrap_or(f64::INFINITY));
    Duration::try_from_secs_f64((shortest / 2.0).max(1.5 * pause)).unwrap_or(MAX_BEAT_AGE)
}

/// What Ruby has made of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet: the thread that was asked does not get to run.
    None,
    /// Its threads run.
    Given,
    /// There is nobody to ask.
    NotHeard,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Wait,
    /// Ask Ruby.
    Ask,
    /// Say that none of its threads runs.
    Tell,
}

/// Watches over the heart of one process, for whoever is awake now and then.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    limit: Duration,
    /// Since when it is silent, as far as that says anything: its last beat, or later.
    since: Option<Instant>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Listening,
    Asked,
    Told,
}

impl Watch {
    /// Begins.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, step: Step::Listening }
    }

    /// Looks at the last `beat`, and at Ruby's answer if it was asked.
    pub fn look(&mut self, now: Instant, beat: Option<Instant>, answer: Answer) -> Act {
        if beat > self.since {
            (self.since, self.step) = (beat, Step::Listening);
        }
        let Some(due) = self.due().filter(|due| now >= *due) else { return Act::Wait };
        // We were not running ourselves: the whole process was stopped, or the machine has slept.
        if now - due > self.patience() {
            (self.since, self.step) = (Some(now), Step::Listening);
            return Act::Wait;
        }
        match (self.step, answer) {
            (Step::Listening, _) => {
                self.step = Step::Asked;
                Act::Ask
            }
            (Step::Asked, Answer::None) => {
                self.step = Step::Told;
                Act::Tell
            }
            // Only the heart is silent, or it cannot be told; it is asked again.
            _ => {
                (self.since, self.step) = (Some(now), Step::Listening);
                Act::Wait
            }
        }
    }

    /// When to look again; `None`: not before the heart has beaten.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match (self.since, self.step) {
            (None, _) | (_, Step::Told) => None,
            (Some(since), Step::Listening) => Some(since + (self.limit - self.patience())),
            (Some(since), Step::Asked) => Some(since + self.limit),
        }
    }

    /// How long Ruby may take to answer.
    fn patience(&self) -> Duration {
        self.limit / 4
    }
}

/// What is said while it lasts. `jobs` are classes by the ids of the jobs.
#[must_use]
pub fn stuck(silent: Duration, jobs: &BTreeMap<String, String>) -> String {
    format!(
        "Ruby has switched no threads, and its heart has not beaten for {} s: something holds Ruby's lock in native code. \
         {}; docs/long-native-calls.md tells how to live with it",
        silent.as_secs(),
        in_hand(jobs)
    )
}

/// What is said when it is over.
#[must_use]
pub fn over(silent: Duration, jobs: &str) -> String {
    format!("Ruby's threads run again; its heart was silent for {} s. {jobs}", silent.as_secs())
}

/// The jobs in hand, in words.
#[must_use]
pub fn in_hand(jobs: &BTreeMap<String, String>) -> String {
    if jobs.is_empty() {
        return "No job is in hand".to_owned();
    }
    let jobs: Vec<String> = jobs.iter().map(|(jid, class)| format!("{class} {jid}")).collect();
    format!("Jobs in hand: {}", jobs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_somebody_kills_after() {
        for (watchdog, pause, seconds) in [
            (None, 10.0, 30.0),
            (Some(60.0), 10.0, 30.0),
            (Some(120.0), 10.0, 30.0),
            (Some(40.0), 10.0, 20.0),
            // A beat that is late is no silence.
            (Some(20.0), 10.0, 15.0),
            (Some(2.0), 0.2, 1.0),
        ] {
            assert_eq!(limit(watchdog, pause).as_secs_f64(), seconds, "{watchdog:?} {pause}");
        }
    }

    #[test]
    fn a_silent_heart() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let due = |watch: &Watch| watch.due().map(|due| (due - start).as_secs_f64());
        // Seconds, the last beat, the answer; what is done, and when it is looked at again.
        type Row = (f64, Option<f64>, Answer, Act, Option<f64>);
        let play = |rows: &[Row]| {
            let mut watch = Watch::new(Duration::from_secs(40));
            for (now, beat, answer, act, next) in rows {
                assert_eq!(watch.look(at(*now), beat.map(at), *answer), *act, "{now} {watch:?}");
                assert_eq!(due(&watch), *next, "{now} {watch:?}");
            }
        };
        use Act::{Ask, Tell, Wait};
        use Answer::{Given, None as Nothing, NotHeard};
        // It has not begun to beat; it beats; it is stuck, and said to be so once; it beats again.
        play(&[
            (0.0, None, Nothing, Wait, None),
            (1.0, Some(1.0), Nothing, Wait, Some(31.0)),
            (31.0, Some(21.0), Nothing, Wait, Some(51.0)),
            (51.0, Some(21.0), Nothing, Ask, Some(61.0)),
            (55.0, Some(21.0), Nothing, Wait, Some(61.0)),
            (61.0, Some(21.0), Nothing, Tell, None),
            (99.0, Some(21.0), Nothing, Wait, None),
            (120.0, Some(120.0), Nothing, Wait, Some(150.0)),
        ]);
        // Ruby answers: it is Redis that keeps the heart. Then it is stuck as well.
        play(&[
            (0.0, Some(0.0), Nothing, Wait, Some(30.0)),
            (30.0, Some(0.0), Nothing, Ask, Some(40.0)),
            (40.0, Some(0.0), Given, Wait, Some(70.0)),
            (70.0, Some(0.0), Given, Ask, Some(80.0)),
            (80.0, Some(0.0), Nothing, Tell, None),
        ]);
        // It beats while it is asked; and there is nobody to ask.
        play(&[
            (30.0, Some(0.0), Nothing, Ask, Some(40.0)),
            (40.0, Some(35.0), Nothing, Wait, Some(65.0)),
            (65.0, Some(35.0), NotHeard, Ask, Some(75.0)),
            (75.0, Some(35.0), NotHeard, Wait, Some(105.0)),
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
    fn what_is_said() {
        let none = BTreeMap::new();
        let jobs = BTreeMap::from([("1a".to_owned(), "Pdf".to_owned()), ("2b".to_owned(), "Mail".to_owned())]);
        assert_eq!(
            stuck(Duration::from_millis(30_900), &jobs),
            "Ruby has switched no threads, and its heart has not beaten for 30 s: something holds Ruby's lock in native \
             code. Jobs in hand: Pdf 1a, Mail 2b; docs/long-native-calls.md tells how to live with it"
        );
        assert!(stuck(Duration::ZERO, &none).contains("native code. No job is in hand; docs/"));
        assert_eq!(
            over(Duration::from_secs(100), &in_hand(&jobs)),
            "Ruby's threads run again; its heart was silent for 100 s. Jobs in hand: Pdf 1a, Mail 2b"
        );
    }
}
