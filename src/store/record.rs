//! The status record: the state of a Sidekiq process, as one JSON file per process.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::job::{self, Job, jobs};
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence};
use crate::model::signal_path::Fate;
use crate::model::state::State;
use crate::model::stop_timeout::Fit;
use crate::model::text::masked;
use crate::sys::identity::Identity;

/// The version of the record's format. A reader rejects a record of a later version instead of misreading it.
pub const SCHEMA: u32 = 2;

/// Why a record cannot be read.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is not JSON, or a field is missing.
    #[error(transparent)]
    NotARecord(#[from] serde_json::Error),
    /// It has a later format.
    #[error("it was written by sidekiq_lifecycle {0}, later than this one")]
    Later(String),
    /// It has the name of another process's record.
    #[error("it is about process {0}")]
    OfAnother(i32),
    /// A symbolic link, which might lead anywhere.
    #[error("it is a symbolic link")]
    Symlink,
    /// A directory, a pipe.
    #[error("it is not a file")]
    NotAFile,
    /// The system's error.
    #[error("{}", .0.desc())]
    System(#[from] Errno),
    /// The same, during the read.
    #[error(transparent)]
    Reading(#[from] std::io::Error),
}

/// What Ruby knows about the process; the core only passes it on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Sidekiq's version.
    pub sidekiq: Option<String>,
    /// Ruby's version.
    pub ruby: Option<String>,
    /// Sidekiq's tag, usually the application's name.
    pub tag: Option<String>,
    /// How many jobs the process can run at once.
    pub concurrency: Option<u32>,
    /// Sidekiq runs inside another program (`Sidekiq.configure_embed`).
    pub embedded: bool,
    /// Seconds that Sidekiq leaves its jobs to finish (`-t`).
    pub timeout: Option<f64>,
    /// Seconds that the platform leaves between SIGTERM and SIGKILL, if the application has set them.
    pub stop_timeout: Option<f64>,
}

impl About {
    /// Parses what Ruby passes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

/// What becomes of signals that are sent to the top of the path to this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalPath {
    /// What becomes of TERM.
    pub term: Fate,
    /// What becomes of TSTP.
    pub tstp: Fate,
    /// The relay's pid, while there is one.
    pub relay: Option<i32>,
    /// Why there is none or it cannot do everything, if one is needed.
    #[serde(default)]
    pub no_relay: Option<String>,
    /// Why it is unknown whether TERM arrives, if it is.
    #[serde(default)]
    pub doubt: Option<String>,
}

/// Something that is wrong with a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// An identifier for machines: `signal_path`, `directory`, ...
    pub code: String,
    /// A whole sentence, with what to do.
    pub message: String,
}

/// The jobs of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Jobs {
    /// Those that were running at the last heartbeat, or later while it drains.
    pub running: Vec<Job>,
    /// Those that Sidekiq interrupted at its shutdown timeout (`-t`).
    pub interrupted: Vec<Job>,
    /// Those that Redis did not take back.
    pub lost: Vec<Job>,
}

/// One process, as it last recorded itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the record's format.
    pub schema: u32,
    /// Which process it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// The current state.
    pub state: State,
    /// Since when it has been in that state (UTC).
    pub since: Timestamp,
    /// What led to that state: a signal, a call, an exit.
    pub why: Option<String>,
    /// Jobs that were running at the last heartbeat, or later while it drains.
    pub busy: u32,
    /// Sidekiq has finished every job it had fetched.
    pub drained: bool,
    /// When the last heartbeat was (UTC), for people.
    pub beat: Option<Timestamp>,
    /// The same on the monotonic clock, in seconds, for machines: adjusting the clock does not change its age.
    pub beat_monotonic: Option<f64>,
    /// When each state, and `drained`, was reached (UTC).
    pub timings: BTreeMap<String, Timestamp>,
    /// The exit status, once it has stopped: 128 + n for a signal n.
    pub exit_status: Option<i32>,
    /// How often each signal's handler had been replaced and was reinstalled.
    pub rearmed: BTreeMap<String, u32>,
    /// The signal path; `None` if it is not visible, or does not matter (embedded).
    #[serde(default)]
    pub signal_path: Option<SignalPath>,
    /// Whether Sidekiq has enough time to stop; `None` if that does not matter (embedded).
    #[serde(default)]
    pub time: Option<Fit>,
    /// Which programs end together with it when it is stopped; determined when it started.
    #[serde(default)]
    pub company: Option<String>,
    /// Why it is not ready although it is running.
    #[serde(default)]
    pub withheld: Option<String>,
    /// Seconds that the application's own hooks took at the last stop: this process's own, once it stops; before that
    /// the longest known of its predecessors in the same directory.
    #[serde(default)]
    pub hooks: Option<f64>,
    /// How many jobs Sidekiq interrupted at its shutdown timeout (`-t`); it pushes them back to Redis.
    #[serde(default)]
    pub interrupted_jobs: u32,
    /// The jobs that Redis did not take back, a class and a jid each.
    #[serde(default)]
    pub lost_jobs: Vec<String>,
    /// The jobs by name.
    #[serde(default)]
    pub jobs: Jobs,
    /// How many jobs of killed processes it has put back.
    #[serde(default)]
    pub put_back_jobs: u32,
    /// Why it can never drain.
    #[serde(default)]
    pub never_drains: Option<String>,
    /// What has requested that it stops once it has drained: a command, a call, a setting.
    #[serde(default)]
    pub stops_when_drained: Option<String>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// The ready file, if the application chose another than the directory's own.
    pub ready_file: Option<String>,
    /// The address at which this process answers HTTP requests for the directory.
    #[serde(default)]
    pub http: Option<String>,
    /// Whether ECS protects the task from deploys and scale-in, as of the last heartbeat; `None` if that is not asked for.
    #[serde(default)]
    pub ecs_task_protected: Option<bool>,
    /// What Ruby has passed.
    #[serde(flatten)]
    pub about: About,
    /// The gem's version.
    pub version: String,
}

impl Record {
    /// A record of the calling process, which has just started to boot.
    #[must_use]
    pub fn new(about: About, ready_file: Option<String>) -> Self {
        let now = now();
        Self {
            schema: SCHEMA,
            identity: Identity::own(),
            state: State::Booting,
            since: now,
            why: None,
            busy: 0,
            drained: false,
            beat: None,
            beat_monotonic: None,
            timings: BTreeMap::from([(State::Booting.to_string(), now)]),
            exit_status: None,
            rearmed: BTreeMap::new(),
            signal_path: None,
            time: None,
            company: None,
            withheld: None,
            hooks: None,
            interrupted_jobs: 0,
            lost_jobs: Vec::new(),
            jobs: Jobs::default(),
            put_back_jobs: 0,
            never_drains: None,
            stops_when_drained: None,
            problems: Vec::new(),
            ready_file,
            http: None,
            ecs_task_protected: None,
            about,
            version: crate::VERSION.to_owned(),
        }
    }

    /// Parses a record.
    ///
    /// # Errors
    /// It is not a record, or was written by a later version.
    pub fn parse(json: &[u8]) -> Result<Self, Unreadable> {
        let record: Self = serde_json::from_slice(json)?;
        if record.schema > SCHEMA {
            return Err(Unreadable::Later(record.version));
        }
        Ok(record)
    }

    /// The record as stored on disk: one line of JSON.
    ///
    /// # Errors
    /// It cannot be written as JSON (a number that is not finite).
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self).map(|json| json + "\n")
    }

    /// What led to the state, and what became of the jobs: "SIGTERM, 2 jobs interrupted, 1 lost".
    #[must_use]
    pub fn why_in_words(&self) -> Option<String> {
        let interrupted = jobs(self.interrupted_jobs).map(|jobs| format!("{jobs} interrupted"));
        let lost = Some(self.lost_jobs.len()).filter(|count| *count > 0).map(|count| format!("{count} lost"));
        let parts: Vec<String> = [self.why.clone(), interrupted, lost].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Enters a new state.
    pub fn enter(&mut self, state: State, why: Option<String>) {
        self.state = state;
        self.since = now();
        self.why = why.map(|why| masked(&why));
        self.timings.insert(state.to_string(), self.since);
    }

    /// Sets the time of the last heartbeat to now.
    pub fn record_heartbeat(&mut self) {
        self.beat = Some(now());
        self.beat_monotonic = Some(monotonic().as_secs_f64());
    }

    /// Records jobs that were interrupted, and jobs that were lost; each replaces what was recorded before.
    pub fn record_unfinished(&mut self, interrupted: Vec<Job>, lost: Vec<Job>) {
        self.interrupted_jobs = u32::try_from(interrupted.len()).unwrap_or(u32::MAX);
        self.lost_jobs = lost.iter().map(Job::name).collect();
        (self.jobs.interrupted, self.jobs.lost) = (interrupted, lost);
    }

    /// Marks the process as drained.
    pub fn mark_drained(&mut self) {
        self.drained = true;
        self.busy = 0;
        self.jobs.running.clear();
        self.timings.insert("drained".to_owned(), now());
    }

    /// How long ago the last heartbeat was.
    #[must_use]
    pub fn beat_age(&self) -> Option<Duration> {
        // Another machine's monotonic clock is not comparable.
        if self.identity.is_of_another_boot() {
            return self.beat.map(age);
        }
        // Below zero if its clock is ahead of this one (time_namespaces(7)): that was just now.
        let age = monotonic().as_secs_f64() - self.beat_monotonic?;
        Duration::try_from_secs_f64(age.clamp(0.0, f64::MAX)).ok()
    }

    /// How long ago it was last active: its last heartbeat or, before the first one, its start.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.beat_age().unwrap_or_else(|| age(self.since))
    }

    /// Whether its process exists. A record of another boot is from before this machine's last boot, unless it was
    /// active just now: then it belongs to another machine that shares the directory (NFS, EFS).
    #[must_use]
    pub fn presence(&self) -> Presence {
        let is_fresh = || self.silence() <= MAX_BEAT_AGE;
        match self.identity.presence() {
            Presence::Gone if self.identity.is_of_another_boot() && is_fresh() => Presence::Elsewhere,
            presence => presence,
        }
    }

    /// Seconds that hooks need on top of Sidekiq's own 4 s, which have room for hooks that take less than one.
    #[must_use]
    pub fn slow_hooks(&self) -> f64 {
        self.hooks.filter(|seconds| *seconds >= 1.0).unwrap_or_default()
    }

    /// The input of the probes, with the process looked up now.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts_with(self.presence())
    }

    /// The input of the probes, with a known presence.
    #[must_use]
    pub fn facts_with(&self, presence: Presence) -> Facts {
        Facts {
            pid: self.identity.pid,
            presence,
            state: self.state,
            drained: self.drained,
            busy: self.busy,
            jobs: job::list(&self.jobs.running, now()),
            beat_age: self.beat_age(),
            ended: (self.state == State::Stopped).then(|| self.ending()),
            withheld: self.withheld.clone(),
            never_drains: self.never_drains.clone(),
            unreadable: None,
        }
    }

    /// How it got to its state: "exit 0, SIGTERM, 2 jobs interrupted"; empty if there is nothing to say.
    #[must_use]
    pub fn ending(&self) -> String {
        let status = self.exit_status.map(|status| format!("exit {status}"));
        let ending: Vec<_> = status.into_iter().chain(self.why_in_words()).collect();
        ending.join(", ")
    }
}

/// The age by the system clock. A clock that is ahead makes no record younger than just now, nor keeps one young for
/// ever.
fn age(time: Timestamp) -> Duration {
    now().duration_since(time).unsigned_abs()
}

/// The time of day (UTC), to the millisecond.
#[must_use]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}

/// A clock that cannot be set: `CLOCK_MONOTONIC`, the same for every process of a host (`clock_gettime(2)`).
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_disk() {
        let about =
            About { sidekiq: Some("8.1.7".into()), concurrency: Some(5), stop_timeout: Some(30.0), ..About::default() };
        let mut record = Record::new(about, Some("tmp/pids/started".into()));
        record.hooks = Some(0.3);
        assert_eq!(record.slow_hooks(), 0.0);
        record.enter(State::Running, None);
        record.record_heartbeat();
        record.enter(State::Quiet, Some("SIGTSTP".into()));
        record.mark_drained();
        record.hooks = Some(12.5);
        assert_eq!(record.slow_hooks(), 12.5);
        let json = record.to_json().unwrap();
        assert!(json.ends_with("}\n") && json.lines().count() == 1);
        assert_eq!(Record::parse(json.as_bytes()).unwrap(), record);
    }

    #[test]
    fn invalid_records_are_rejected_with_a_reason() {
        let later = Record::new(About::default(), None).to_json().unwrap();
        let later = later.replace("\"schema\":2", "\"schema\":3").replace(crate::VERSION, "9.9.9");
        for (json, reason) in [
            ("", "EOF"),
            ("{\"schema\":1", "EOF"),
            ("[]", "invalid"),
            ("{}", "missing field `schema`"),
            (&later, "it was written by sidekiq_lifecycle 9.9.9, later than this one"),
        ] {
            let error = Record::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    #[test]
    fn a_field_added_within_a_schema_is_ignored() {
        let json = Record::new(About::default(), None).to_json().unwrap();
        let json = json.replacen('{', "{\"added_later\":1,", 1);
        assert!(Record::parse(json.as_bytes()).is_ok());
    }

    #[test]
    fn the_heartbeat_ages() {
        let mut record = Record::new(About::default(), None);
        assert_eq!(record.beat_age(), None);
        record.record_heartbeat();
        assert!(record.beat_age().unwrap() < Duration::from_secs(3600));
        record.beat_monotonic = Some(monotonic().as_secs_f64() - 100.0);
        assert!(record.beat_age().unwrap() >= Duration::from_secs(100));
        // A machine that has been up for less than that.
        record.beat_monotonic = Some(-1000.0);
        assert!(record.beat_age().unwrap() >= Duration::from_secs(1000));
        record.beat_monotonic = Some(monotonic().as_secs_f64() + 100.0);
        assert_eq!(record.beat_age(), Some(Duration::ZERO));
        record.beat_monotonic = Some(f64::NAN);
        assert_eq!(record.beat_age(), None);
    }

    #[test]
    fn how_it_ended() {
        let mut record = Record::new(About::default(), None);
        record.exit_status = Some(0);
        record.enter(State::Stopped, Some("SIGTERM".into()));
        assert_eq!(record.facts().ended.as_deref(), Some("exit 0, SIGTERM"));
    }
}
