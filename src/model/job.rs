//! A job, as everyone may see it: without its arguments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::duration;
use crate::model::text::one_line;

/// How many jobs a list names.
const NAMED: usize = 5;

/// The longest part of a name that is kept, in characters. A class and a jid are shorter, but an application may choose them.
const LONGEST: usize = 100;

/// A job without its arguments. Whatever is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its class; with Active Job the application's.
    pub class: Option<String>,
    /// Its id.
    pub jid: Option<String>,
    /// The queue that it was fetched from.
    pub queue: Option<String>,
    /// When it was started (UTC).
    pub started_at: Option<Timestamp>,
    /// How many seconds it had been running when it was interrupted or lost; `None` while it runs.
    pub running_for: Option<f64>,
}

impl Job {
    /// A job that starts.
    #[must_use]
    pub fn started(class: &str, jid: &str, queue: &str, at: Timestamp) -> Self {
        let part = |text: &str| Some(text.chars().take(LONGEST).collect());
        Self { class: part(class), jid: part(jid), queue: part(queue), started_at: Some(at), running_for: None }
    }

    /// A job as Sidekiq fetches it: Redis' key of its queue, its JSON, and when, in milliseconds since 1970.
    #[must_use]
    pub fn fetched(queue: &[u8], payload: &[u8], at: u64) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Payload {
            class: Value,
            wrapped: Value,
            jid: Value,
        }
        let payload: Payload = serde_json::from_slice(payload).unwrap_or_default();
        let part = |value: &Value| Some(value.as_str()?.chars().take(LONGEST).collect());
        let queue = String::from_utf8_lossy(queue);
        Self {
            // Active Job hides the class.
            class: part(&payload.wrapped).or_else(|| part(&payload.class)),
            jid: part(&payload.jid),
            queue: Some(queue.strip_prefix("queue:").unwrap_or(&queue).chars().take(LONGEST).collect()),
            started_at: i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok()),
            running_for: None,
        }
    }

    /// Parses a list of jobs that Ruby passes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_list(json: &str) -> serde_json::Result<Vec<Self>> {
        serde_json::from_str(json)
    }

    /// Its class and its id: "ReportJob 1a2b3c".
    #[must_use]
    pub fn name(&self) -> String {
        let parts: Vec<&str> = [&self.class, &self.jid].into_iter().flatten().map(String::as_str).collect();
        if parts.is_empty() { "a job whose name is not known".to_owned() } else { one_line(&parts.join(" ")) }
    }

    /// What is known at that time, on one line: "ReportJob 1a2b3c (queue reports, running for 2 h 3 min)".
    #[must_use]
    pub fn describe(&self, now: Timestamp) -> String {
        let age = || self.started_at.map(|at| now.duration_since(at).as_secs_f64().max(0.0));
        let queue = self.queue.as_ref().map(|queue| format!("queue {}", one_line(queue)));
        let age = self.running_for.or_else(age).map(|age| format!("running for {}", duration::format(age)));
        let details: Vec<String> = [queue, age].into_iter().flatten().collect();
        if details.is_empty() { self.name() } else { format!("{} ({})", self.name(), details.join(", ")) }
    }
}

/// "1 job", "2 jobs"; `None` for none.
#[must_use]
pub fn jobs(count: u32) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 job".to_owned()),
        count => Some(format!("{count} jobs")),
    }
}

/// Several jobs on one line, the longest running first; no more than a few are named. Empty if there is none.
#[must_use]
pub fn list(jobs: &[Job], now: Timestamp) -> String {
    let mut sorted: Vec<&Job> = jobs.iter().collect();
    // `None` is less than any time, but an unknown start comes last.
    sorted.sort_by_key(|job| (job.started_at.is_none(), job.started_at));
    let named: Vec<String> = sorted.iter().take(NAMED).map(|job| job.describe(now)).collect();
    let more = match jobs.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_known() {
        let full = Job::started("ReportJob", "1a2b", "reports", at(100));
        for (job, expected) in [
            (full.clone(), "ReportJob 1a2b (queue reports, running for 2 h 3 min)"),
            (Job { running_for: Some(25.4), ..full.clone() }, "ReportJob 1a2b (queue reports, running for 25 s)"),
            (Job { started_at: None, ..full.clone() }, "ReportJob 1a2b (queue reports)"),
            // Its clock was set back.
            (Job { started_at: Some(at(9_000)), ..full.clone() }, "ReportJob 1a2b (queue reports, running for 0 s)"),
            (Job { queue: None, started_at: None, ..full.clone() }, "ReportJob 1a2b"),
            (Job { class: None, ..full.clone() }, "1a2b (queue reports, running for 2 h 3 min)"),
            (Job { class: Some("A\u{1b}[2J\nB".into()), started_at: None, ..full }, "A [2J B 1a2b (queue reports)"),
            (Job::default(), "a job whose name is not known"),
        ] {
            assert_eq!(job.describe(at(100 + 2 * 3600 + 3 * 60)), expected);
        }
    }

    #[test]
    fn a_list_names_the_longest_running() {
        let job = |jid: &str, second| Job { jid: Some(jid.into()), started_at: Some(at(second)), ..Job::default() };
        let mut jobs = vec![job("b", 20), job("a", 10), Job { jid: Some("z".into()), ..Job::default() }];
        assert_eq!(list(&jobs, at(30)), "a (running for 20 s), b (running for 10 s), z");
        jobs.extend(["c", "d", "e", "f"].map(|jid| job(jid, 25)));
        assert!(list(&jobs, at(30)).ends_with("e (running for 5 s), and 2 more"), "{}", list(&jobs, at(30)));
        assert_eq!(list(&[], at(30)), "");
    }

    #[test]
    fn what_sidekiq_fetches() {
        let full = Job::started("Report", "1a2b", "low", at(100));
        let nameless = Job { class: None, jid: None, ..full.clone() };
        for (payload, expected) in [
            ("{\"class\":\"Report\",\"args\":[{\"jid\":\"x\"}],\"jid\":\"1a2b\"}", &full),
            ("{\"class\":\"Wrapper\",\"wrapped\":\"Report\",\"jid\":\"1a2b\"}", &full),
            ("{\"class\":7,\"jid\":[]}", &nameless),
            ("no JSON", &nameless),
            ("[]", &nameless),
        ] {
            assert_eq!(&Job::fetched(b"queue:low", payload.as_bytes(), 100_000), expected, "{payload}");
        }
        let odd = Job::fetched(b"\xFFqueue", b"", u64::MAX);
        assert_eq!((odd.queue.as_deref(), odd.started_at), (Some("\u{FFFD}queue"), None));
    }

    #[test]
    fn names_have_a_limit() {
        let long = "x".repeat(10_000);
        assert_eq!(Job::started(&long, &long, &long, at(0)).name().len(), 2 * LONGEST + 1);
    }
}
