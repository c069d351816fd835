//! A job that a process had in hand when it was killed, and what became of it. Without its arguments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::duration;
use super::job::Job;
use super::text::one_line;

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in the flight recorder, and waits to be put back.
    Waiting,
    /// It is at the head of its queue again.
    PutBack,
    /// It is in the dead set, because it had been put back too often.
    Dead,
    /// Its fetch keeps a copy, so it was left to that.
    Kept,
}

impl Outcome {
    /// The outcome of that name, as in JSON; `None`: there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// For people: "put back 5 min ago". `age` is in seconds, if it is known when it happened.
    #[must_use]
    pub fn in_words(self, age: Option<f64>) -> String {
        let what = match self {
            Self::Waiting => "waits to be put back",
            Self::PutBack => "put back",
            Self::Dead => "in the dead set",
            Self::Kept => "its fetch keeps a copy",
        };
        match (age.map(|age| duration::format(age.max(0.0))), self) {
            (Some(age), Self::PutBack) => format!("{what} {age} ago"),
            (Some(age), Self::Dead) => format!("{what} for {age}"),
            _ => what.to_owned(),
        }
    }
}

/// A job that was in hand. The same JSON as in Redis (`put_back.rb`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KilledJob {
    /// Its class; with Active Job the application's.
    pub class: Option<String>,
    /// Its id.
    pub jid: Option<String>,
    /// Its queue.
    pub queue: Option<String>,
    /// When it was fetched (UTC).
    pub started_at: Option<Timestamp>,
    /// Who had it: "process 4711", or Sidekiq's identity of a process on another machine.
    pub process: String,
    /// What became of it.
    pub outcome: Outcome,
    /// When that happened (UTC); `None` while it waits.
    pub at: Option<Timestamp>,
    /// Who put it back.
    pub by: Option<String>,
}

impl KilledJob {
    /// A job in the recorder of a process that is gone.
    #[must_use]
    pub fn waiting(job: Job, pid: i32, is_kept: bool) -> Self {
        let Job { class, jid, queue, started_at, .. } = job;
        let outcome = if is_kept { Outcome::Kept } else { Outcome::Waiting };
        Self { class, jid, queue, started_at, process: format!("process {pid}"), outcome, at: None, by: None }
    }

    /// Parses what Ruby passes, or a line of the history.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }

    /// Its class and its id.
    #[must_use]
    pub fn name(&self) -> String {
        Job { class: self.class.clone(), jid: self.jid.clone(), ..Job::default() }.name()
    }

    /// The process, without the word.
    #[must_use]
    pub fn process_name(&self) -> String {
        one_line(self.process.strip_prefix("process ").unwrap_or(&self.process))
    }

    /// What became of it, for people: "put back 5 min ago".
    #[must_use]
    pub fn outcome_in_words(&self, now: Timestamp) -> String {
        self.outcome.in_words(self.at.map(|at| now.duration_since(at).as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_became_of_it() {
        let waiting = KilledJob::waiting(Job::started("Report", "1a2b", "low", at(0)), 4711, false);
        assert_eq!((waiting.name().as_str(), waiting.process_name().as_str()), ("Report 1a2b", "4711"));
        let after = |outcome, second| KilledJob { outcome, at: Some(at(second)), ..waiting.clone() };
        for (job, expected) in [
            (waiting.clone(), "waits to be put back"),
            (after(Outcome::PutBack, 100), "put back 20 s ago"),
            // The clock was set back.
            (after(Outcome::PutBack, 999), "put back 0 s ago"),
            (after(Outcome::Dead, 60), "in the dead set for 1 min"),
            (after(Outcome::Kept, 60), "its fetch keeps a copy"),
            (KilledJob { outcome: Outcome::PutBack, ..waiting.clone() }, "put back"),
        ] {
            assert_eq!(job.outcome_in_words(at(120)), expected);
        }
    }

    #[test]
    fn outcomes_by_name() {
        for outcome in [Outcome::Waiting, Outcome::PutBack, Outcome::Dead, Outcome::Kept] {
            let name = serde_json::to_value(outcome).unwrap();
            assert_eq!(Outcome::named(name.as_str().unwrap()), Some(outcome));
        }
        assert_eq!([Outcome::named("eaten"), Outcome::named("")], [None, None]);
    }

    #[test]
    fn a_line_of_the_history() {
        let line = "{\"class\":\"Report\",\"jid\":null,\"queue\":\"low\",\"process\":\"web-1:7:ab\",\
                    \"outcome\":\"put_back\",\"by\":\"web-2:9:cd\",\"started_at\":\"2026-11-27T06:00:00.000Z\",\
                    \"at\":\"2026-11-27T06:10:00.000Z\",\"added_later\":1}";
        let job = KilledJob::parse(line).unwrap();
        assert_eq!(
            (job.outcome, job.process_name().as_str(), job.name().as_str()),
            (Outcome::PutBack, "web-1:7:ab", "Report")
        );
        assert_eq!(KilledJob::parse(&serde_json::to_string(&job).unwrap()).unwrap(), job);
        for wrong in ["", "[]", "{}", "{\"outcome\":\"eaten\",\"process\":\"\"}"] {
            assert!(KilledJob::parse(wrong).is_err(), "{wrong}");
        }
    }
}
