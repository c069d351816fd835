//! The metrics of a lifecycle directory, as OpenMetrics text. docs/http.md describes each.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::lookup::ObservedProcess;
use super::record::Record;
use crate::model::probe::{Facts, MAX_BEAT_AGE, Probe};
use crate::model::signal_path::Fate;
use crate::model::state::State;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Of every process whose record can be read, and how many jobs of killed processes wait in the directory, if any process
/// has ever recorded them.
///
/// # Errors
/// The text cannot be written.
pub fn metrics(processes: &[ObservedProcess], waiting: Option<usize>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sidekiq_lifecycle");
    for Metric { name, help, is_seconds, value } in METRICS {
        let gauges = Gauges::default();
        for (record, facts) in processes.iter().filter_map(known) {
            if let Some(value) = value(record, &facts) {
                gauges.get_or_create(&labels(record)).set(value);
            }
        }
        if *is_seconds {
            registry.register_with_unit(*name, *help, Unit::Seconds, gauges);
        } else {
            registry.register(*name, *help, gauges);
        }
    }
    let states = Gauges::default();
    for (record, _) in processes.iter().filter_map(known) {
        for state in State::ALL {
            let labels = [labels(record), vec![("state", state.to_string())]].concat();
            states.get_or_create(&labels).set(is(record.state == state));
        }
    }
    registry.register("state", "Whether the process is in this state", states);
    let jobs_waiting = Gauges::default();
    if let Some(count) = waiting.and_then(|count| u32::try_from(count).ok()) {
        jobs_waiting.get_or_create(&Vec::new()).set(count.into());
    }
    registry.register("waiting_jobs", "Jobs of killed processes that wait to be put back", jobs_waiting);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

struct Metric {
    name: &'static str,
    help: &'static str,
    is_seconds: bool,
    /// `None`: not known, or not yet.
    value: fn(&Record, &Facts) -> Option<f64>,
}

impl Metric {
    const fn new(name: &'static str, help: &'static str, value: fn(&Record, &Facts) -> Option<f64>) -> Self {
        Self { name, help, is_seconds: false, value }
    }

    const fn seconds(name: &'static str, help: &'static str, value: fn(&Record, &Facts) -> Option<f64>) -> Self {
        Self { name, help, is_seconds: true, value }
    }
}

const METRICS: &[Metric] = &[
    Metric::new("live", "Whether the probe live passes", |_, facts| Some(passes(facts, Probe::Live))),
    Metric::new("ready", "Whether the probe ready passes", |_, facts| Some(passes(facts, Probe::Ready))),
    Metric::new("drained", "Whether the probe drained passes", |_, facts| Some(passes(facts, Probe::Drained))),
    Metric::new("busy_jobs", "Jobs that were running at the last heartbeat", |record, _| Some(record.busy.into())),
    Metric::new("concurrency", "Processor threads", |record, _| record.about.concurrency.map(f64::from)),
    Metric::seconds("heartbeat_age", "Time since the last heartbeat", |_, facts| {
        facts.beat_age.map(|age| age.as_secs_f64())
    }),
    Metric::seconds("boot", "Time from registration to running", |record, _| took(record, "booting", "running")),
    Metric::seconds("drain", "Time from quiet, or from stopping, to drained", |record, _| {
        took(record, "quiet", "drained").or_else(|| took(record, "stopping", "drained"))
    }),
    Metric::seconds("shutdown", "Time from stopping to stopped", |record, _| took(record, "stopping", "stopped")),
    Metric::new("interrupted_jobs", "Jobs that Sidekiq interrupted at its shutdown timeout", |record, _| {
        Some(record.interrupted_jobs.into())
    }),
    Metric::new("lost_jobs", "Jobs that Redis did not take back", |record, _| {
        u32::try_from(record.lost_jobs.len()).ok().map(f64::from)
    }),
    Metric::new("put_back_jobs", "Jobs of killed processes that this process has put back", |record, _| {
        Some(record.put_back_jobs.into())
    }),
    Metric::new("sigterm_arrives", "Whether a SIGTERM reaches Sidekiq; missing if that is not known", |record, _| {
        let path = record.signal_path.as_ref().filter(|path| path.term != Fate::Unknown)?;
        Some(is(path.term == Fate::Arrives))
    }),
    Metric::new("relay", "Whether the relay forwards signals to the process", |record, _| {
        record.signal_path.as_ref().map(|path| is(path.relay.is_some()))
    }),
    Metric::new("ecs_task_protected", "Whether ECS protects the task from deploys and scale-in", |record, _| {
        record.ecs_task_protected.map(is)
    }),
    Metric::new("problems", "How many problems the process reports", |record, _| {
        u32::try_from(record.problems.len()).ok().map(f64::from)
    }),
];

fn known(process: &ObservedProcess) -> Option<(&Record, Facts)> {
    Some((process.record.as_ref().ok()?, process.facts()))
}

fn labels(record: &Record) -> Labels {
    let tag = record.about.tag.clone().unwrap_or_default();
    vec![("pid", record.identity.pid.to_string()), ("tag", tag), ("version", record.version.clone())]
}

fn is(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn passes(facts: &Facts, probe: Probe) -> f64 {
    is(facts.answer(probe, MAX_BEAT_AGE).is_ok())
}

/// Seconds from one of a record's timings to another.
fn took(record: &Record, from: &str, to: &str) -> Option<f64> {
    let until = record.timings.get(to)?;
    Some(until.duration_since(*record.timings.get(from)?).as_secs_f64().max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::probe::Presence;
    use crate::store::directory::Directory;
    use crate::store::record::{About, SignalPath};
    use jiff::Timestamp;
    use std::path::Path;

    fn observed(record: Record) -> ObservedProcess {
        ObservedProcess {
            pid: record.identity.pid,
            record: Ok(record),
            presence: Presence::Here,
            snapshot: None,
            directory: Directory::new(Path::new("tmp/sidekiq"), None),
            in_hand: None,
        }
    }

    fn example() -> Record {
        let about = About { concurrency: Some(5), tag: Some("a \"shop\"\n".into()), ..About::default() };
        let mut record = Record::new(about, None);
        record.identity.pid = 7;
        record.enter(State::Running, None);
        let second = |second| Timestamp::from_second(second).unwrap();
        record.timings = [("booting", 0), ("running", 3), ("quiet", 10), ("drained", 17)]
            .map(|(name, at)| (name.to_owned(), second(at)))
            .into();
        record.busy = 2;
        record.put_back_jobs = 4;
        record.lost_jobs = vec!["A 1".into()];
        record.version = "1.2.3".into();
        record.signal_path =
            Some(SignalPath { term: Fate::Lost, tstp: Fate::Lost, relay: None, no_relay: None, doubt: None });
        record
    }

    #[test]
    fn a_process() {
        let text = metrics(&[observed(example())], Some(3)).unwrap();
        let labels = r#"{pid="7",tag="a \"shop\"\n",version="1.2.3"}"#;
        for line in [
            format!("sidekiq_lifecycle_ready{labels} 1.0"),
            format!("sidekiq_lifecycle_busy_jobs{labels} 2.0"),
            format!("sidekiq_lifecycle_concurrency{labels} 5.0"),
            format!("sidekiq_lifecycle_boot_seconds{labels} 3.0"),
            format!("sidekiq_lifecycle_drain_seconds{labels} 7.0"),
            format!("sidekiq_lifecycle_lost_jobs{labels} 1.0"),
            format!("sidekiq_lifecycle_sigterm_arrives{labels} 0.0"),
            format!("sidekiq_lifecycle_relay{labels} 0.0"),
            r#"sidekiq_lifecycle_state{pid="7",tag="a \"shop\"\n",version="1.2.3",state="running"} 1.0"#.to_owned(),
            r#"sidekiq_lifecycle_state{pid="7",tag="a \"shop\"\n",version="1.2.3",state="stopped"} 0.0"#.to_owned(),
            format!("sidekiq_lifecycle_put_back_jobs{labels} 4.0"),
            "sidekiq_lifecycle_waiting_jobs 3.0".to_owned(),
            "# UNIT sidekiq_lifecycle_boot_seconds seconds".to_owned(),
            "# EOF".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        for absent in [
            "sidekiq_lifecycle_ecs_task_protected{",
            "sidekiq_lifecycle_shutdown_seconds{",
            "sidekiq_lifecycle_heartbeat_age_seconds{",
        ] {
            assert!(!text.contains(absent), "{absent} is not known, but in:\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_missing() {
        let mut record = example();
        record.signal_path = None;
        record.ecs_task_protected = Some(true);
        let mut unreadable = observed(example());
        unreadable.record = Err("EOF".into());
        let text = metrics(&[observed(record), unreadable], None).unwrap();
        assert!(!text.contains("sigterm_arrives{") && text.matches("busy_jobs{").count() == 1, "{text}");
        assert!(!text.contains("waiting_jobs 0"), "{text}");
        assert!(text.contains("ecs_task_protected{pid=\"7\""), "{text}");
        assert!(metrics(&[], None).unwrap().ends_with("# EOF\n"));
    }
}
