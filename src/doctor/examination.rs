//! The examination of one Sidekiq.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};
use serde::Serialize;

use crate::model::diagnosis::{Diagnosis, Findings, Verdict, judge};
use crate::model::probe::{Facts, Presence};
use crate::model::program::{Program, Sidekiq};
use crate::model::signal_path::{Effect, Fate, KillMode, Path, Request};
use crate::model::state::State;
use crate::model::stop_timeout::{self, Fit, Need, Source, StopTimeout};
use crate::model::text::{as_root, masked};
use crate::store::directory::Directory;
use crate::store::entry::Entry;
use crate::store::health::Health;
use crate::store::lookup::{ObservedProcess, is_elsewhere, is_of};
use crate::store::record::{About, Problem, Record};
use crate::sys::platform::{self, Service};
use crate::sys::procfs::{Mask, Snapshot};

/// One Sidekiq, as examined.
#[derive(Debug, Serialize)]
pub struct Examination {
    pub pid: i32,
    /// Its pid in its own PID namespace, if that is another one.
    pub own_pid: Option<i32>,
    pub uid: u32,
    pub sidekiq: Option<String>,
    pub tag: Option<String>,
    pub state: Option<State>,
    /// The gem's version, if it has a record.
    pub gem: Option<String>,
    /// Whether the gem is loaded in it; `None` if that is not visible.
    pub has_gem: Option<bool>,
    pub signal_path: SignalPath,
    pub relay: Relay,
    /// Signals that its main thread blocks.
    pub blocked: Vec<String>,
    pub ignored: Vec<String>,
    pub time: Time,
    pub directory: PathBuf,
    pub health: Option<Health>,
    /// Problems that it has recorded itself, without those that the doctor determines as well.
    pub problems: Vec<Problem>,
    pub not_seen: Vec<String>,
    pub measured: Option<Measured>,
    #[serde(flatten)]
    pub diagnosis: Diagnosis,
    /// Kept to make the diagnosis again after a measurement.
    #[serde(skip)]
    path: Path,
    #[serde(skip)]
    is_embedded: bool,
}

/// The signal path, from the top.
#[derive(Debug, Serialize)]
pub struct SignalPath {
    pub term: Fate,
    pub tstp: Fate,
    pub kill_mode: Option<KillMode>,
    pub links: Vec<Link>,
}

#[derive(Debug, Serialize)]
pub struct Link {
    pub pid: i32,
    pub title: String,
    pub program: Program,
    pub arguments: Vec<String>,
    pub term: Effect,
    pub tstp: Effect,
    /// In words.
    pub verdict: String,
    /// In words, if TSTP fails here and TERM does not.
    pub tstp_verdict: Option<String>,
    /// TERM fails here.
    pub is_culprit: bool,
}

#[derive(Debug, Serialize)]
pub struct Relay {
    pub pid: Option<i32>,
    /// The links that it forwards signals past.
    pub forwards_past: Vec<String>,
    /// Why there is none or it cannot do everything; `None` if nothing is wrong.
    pub problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Time {
    /// Sidekiq's `-t`.
    pub timeout: Option<f64>,
    pub stop_timeout: Option<StopTimeout>,
    /// It asks systemd for the time that it needs when it stops.
    pub is_extended: bool,
    /// Seconds that it needs to stop.
    pub needed: Option<f64>,
    #[serde(flatten)]
    pub fit: Fit,
}

impl Time {
    fn of(
        pid: i32,
        need: Need,
        about: &About,
        service: Option<Service>,
        has_gem: bool,
        is_used_by_person: bool,
    ) -> Self {
        let is_accepted = service.as_ref().is_some_and(|service| service.is_accepted);
        let found = platform::stop_timeout(about.stop_timeout);
        let wrong = found.as_ref().err().map(ToString::to_string);
        let stop = found.ok().flatten().or_else(|| service.and_then(|service| service.stop_timeout));
        let stop = stop.or_else(|| platform::engine_stop_timeout(pid));
        let is_systemds = matches!(&stop, Some(StopTimeout { source: Source::Systemd(_), .. }));
        // Without the gem, Sidekiq notifies systemd of its stop, but asks for no time.
        let is_extended = is_systemds && is_accepted && has_gem && !about.embedded;
        let fit = match (wrong, stop_timeout::fit(need, stop.as_ref())) {
            (Some(wrong), _) => Fit::Unknown(wrong),
            (None, Fit::TooShort(_)) if is_extended => Fit::Fits(format!(
                "the {} is too short, so systemd is asked for more when it stops: {}",
                stop.as_ref().map(ToString::to_string).unwrap_or_default(),
                need.words()
            )),
            (None, Fit::Unknown(_)) if is_used_by_person => {
                Fit::Fits("the person at the shell decides how long to wait".to_owned())
            }
            (None, fit) => fit,
        };
        Self { timeout: about.timeout, stop_timeout: stop, is_extended, needed: need.seconds(), fit }
    }
}

/// What became of a real SIGTERM.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `None` if the result is unclear.
    pub fate: Option<Fate>,
    pub words: String,
    /// What became of a real SIGTSTP before it, in words.
    pub tstp: String,
}

impl Examination {
    /// `service`: the systemd service that it belongs to.
    pub(super) fn of(
        snapshot: &Snapshot,
        process: &ObservedProcess,
        all: &[Snapshot],
        service: Option<Service>,
    ) -> Self {
        let (record, directory) = (process.record.as_ref().ok(), &process.directory);
        let chain = Snapshot::chain(snapshot.pid);
        let relay = relay(&chain, all);
        let seen = Snapshot::path(snapshot.pid).with_kill_mode(service.as_ref().and_then(|service| service.kill_mode));
        // The relay of another Sidekiq forwards nothing to this one.
        let path = if relay.is_some() { seen } else { seen.without_relay() };
        let has_gem = has_gem(snapshot, record.is_some());
        let said = record.and_then(|record| record.signal_path.as_ref()?.no_relay.clone());
        let about = record.map(|record| record.about.clone()).unwrap_or_default();
        let hooks = record.map(|record| record.slow_hooks()).unwrap_or_default();
        let need = Need { timeout: about.timeout, hooks };
        let time = Time::of(snapshot.pid, need, &about, service, record.is_some(), path.is_used_by_person());
        let path = path.with_needed(time.needed);
        let version = match snapshot.sidekiq() {
            Some(Sidekiq::Started { version }) => Some(version),
            _ => None,
        };
        let relay = Relay {
            pid: relay.map(|relay| relay.pid),
            forwards_past: path
                .links()
                .iter()
                .filter(|link| link.is_bypassed())
                .map(crate::model::signal_path::Link::title)
                .collect(),
            problem: no_relay(&path, relay.is_some(), said, has_gem),
        };
        let findings = Findings {
            path: &path,
            no_relay: relay.problem.as_deref(),
            time: &time.fit,
            is_booting: is_booting(snapshot, record),
            is_embedded: about.embedded,
            measured: None,
        };
        let diagnosis = judge(&findings);
        let found_here = |problem: &&Problem| ["signal_path", "stop_timeout"].contains(&problem.code.as_str());
        Self {
            pid: snapshot.pid,
            own_pid: Some(snapshot.own_pid()).filter(|pid| *pid != snapshot.pid),
            uid: snapshot.uid,
            sidekiq: about.sidekiq.clone().or(version),
            tag: about.tag.clone().filter(|tag| !tag.is_empty()),
            state: record.map(|record| record.state),
            gem: record.map(|record| record.version.clone()),
            has_gem,
            signal_path: signal_path(&path),
            relay,
            blocked: names(snapshot.blocked),
            ignored: names(snapshot.ignored),
            directory: directory.path().to_owned(),
            health: record.map(|record| health(snapshot, process, all, record.ready_file.as_ref())),
            problems: record
                .iter()
                .flat_map(|record| &record.problems)
                .filter(|problem| !found_here(problem))
                .cloned()
                .collect(),
            not_seen: not_seen(snapshot, has_gem),
            measured: None,
            time,
            diagnosis,
            path,
            is_embedded: about.embedded,
        }
    }

    pub fn verdict(&self) -> Verdict {
        self.diagnosis.verdict
    }

    /// Why, and what to change, in one line; `None` if nothing is wrong.
    pub fn reasons(&self) -> Option<String> {
        let all: Vec<String> = self.diagnosis.reasons.iter().chain(&self.diagnosis.fix).cloned().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The examination with the result of a real SIGTERM.
    pub fn with(mut self, measured: Measured) -> Self {
        self.diagnosis = judge(&Findings {
            path: &self.path,
            no_relay: self.relay.problem.as_deref(),
            time: &self.time.fit,
            is_booting: false,
            is_embedded: self.is_embedded,
            measured: measured.fate,
        });
        self.measured = Some(measured);
        self
    }
}

fn is_booting(snapshot: &Snapshot, record: Option<&Record>) -> bool {
    match record {
        Some(record) => record.state == State::Booting,
        None => matches!(snapshot.sidekiq(), Some(Sidekiq::Booting)),
    }
}

/// The relay of a Sidekiq, or of the process that has preloaded its application. Its command line is `signal-relay
/// PID START_TIME STOP_LIMIT`; one that is still starting has a further argument.
fn relay<'a>(chain: &[Snapshot], all: &'a [Snapshot]) -> Option<&'a Snapshot> {
    all.iter().filter(|process| process.program() == Program::Relay).find(|relay| {
        let number = |index: usize| relay.arguments.get(index).and_then(|word| word.parse::<u64>().ok());
        let is_target = |process: &Snapshot| {
            number(1) == u64::try_from(process.own_pid()).ok() && number(2) == Some(process.start_time)
        };
        relay.arguments.len() == 4 && chain.iter().any(is_target)
    })
}

fn no_relay(path: &Path, has_relay: bool, said: Option<String>, has_gem: Option<bool>) -> Option<String> {
    if path.to_be_relayed().is_empty() {
        return None;
    }
    let is_needed = [Request::Stop, Request::Quiet].into_iter().any(|request| path.fate(request).0.is_bad());
    match (said, has_gem) {
        (Some(said), _) => Some(said),
        _ if !is_needed || has_relay => None,
        (None, Some(false)) => Some("this Sidekiq does not use sidekiq_lifecycle".to_owned()),
        (None, _) => Some("none was started".to_owned()),
    }
}

fn signal_path(path: &Path) -> SignalPath {
    let ((term, culprit), (tstp, tstp_culprit)) = (path.fate(Request::Stop), path.fate(Request::Quiet));
    let link = |(index, link): (usize, &crate::model::signal_path::Link)| {
        let is_worse = tstp.is_bad() && index == tstp_culprit && !(term.is_bad() && culprit == tstp_culprit);
        let verdict = match (index, path.kill_mode()) {
            (0, _) => "is Sidekiq".to_owned(),
            (_, Some(mode)) if link.program == Program::Manager => match mode {
                KillMode::ControlGroup => "signals every process of the service (KillMode=control-group)".to_owned(),
                mode => format!("signals the service's main process (KillMode={mode})"),
            },
            _ if link.is_used_by_person() => "is a person's interactive shell".to_owned(),
            _ => link.verdict(Request::Stop),
        };
        Link {
            pid: link.pid,
            title: link.title(),
            program: link.program,
            arguments: link.arguments.iter().map(|word| masked(word)).collect(),
            term: path.effect(index, Request::Stop),
            tstp: path.effect(index, Request::Quiet),
            verdict,
            tstp_verdict: is_worse.then(|| link.verdict(Request::Quiet)),
            is_culprit: term != Fate::Arrives && index == culprit,
        }
    };
    SignalPath {
        term,
        tstp,
        kill_mode: path.kill_mode(),
        links: path.links().iter().enumerate().rev().map(link).collect(),
    }
}

fn names(mask: Mask) -> Vec<String> {
    Signal::iterator().filter(|signal| mask.has(*signal)).map(|signal| signal.as_str().replacen("SIG", "", 1)).collect()
}

/// Looks for the gem in the process's memory map, if the doctor may read it.
fn has_gem(snapshot: &Snapshot, has_record: bool) -> Option<bool> {
    if has_record {
        return Some(true);
    }
    // It is loaded together with the application.
    if is_booting(snapshot, None) {
        return None;
    }
    let maps = fs::read_to_string(format!("/proc/{}/maps", snapshot.pid)).ok()?;
    Some(maps.contains("/sidekiq_lifecycle"))
}

fn health(snapshot: &Snapshot, process: &ObservedProcess, all: &[Snapshot], ready_file: Option<&String>) -> Health {
    let (record, directory) = (process.record.as_ref().ok(), &process.directory);
    let facts = |entry: &Entry| -> Facts {
        let is_here = |record| all.iter().any(|snapshot| is_of(record, snapshot));
        match &entry.record {
            Ok(record) if is_here(record) => record.facts_with(Presence::Here),
            _ => record.map_or_else(|| entry.facts(), |own| entry.facts_beside(own)),
        }
    };
    let ready_file = ready_file.map(|file| match is_elsewhere(snapshot) {
        true => PathBuf::from(format!("/proc/{}/root{file}", snapshot.pid)),
        false => PathBuf::from(file),
    });
    let look = |directory: &Directory| {
        let facts: Vec<Facts> = directory.read().unwrap_or_default().iter().map(facts).collect();
        directory.health(snapshot, &facts, ready_file.as_deref())
    };
    let first = look(directory);
    if first.problems.is_empty() {
        return first;
    }
    // The files and the records are not read in one moment.
    std::thread::sleep(std::time::Duration::from_millis(300));
    look(directory)
}

fn not_seen(snapshot: &Snapshot, has_gem: Option<bool>) -> Vec<String> {
    let (own, theirs) = (geteuid().as_raw(), snapshot.uid);
    // Only a process with the same uid and gid may inspect it (ptrace(2)).
    let both =
        |uid: u32, gid: u32| if own == theirs { format!("uid {uid} and gid {gid}") } else { format!("uid {uid}") };
    let own_group = getegid().as_raw();
    let (doctor, them) = (both(own, own_group), both(theirs, snapshot.groups.first().copied().unwrap_or(own_group)));
    let mut things = Vec::new();
    if has_gem.is_none() && !is_booting(snapshot, None) {
        things.push("whether sidekiq_lifecycle is in it");
    }
    if snapshot.executable.is_none() {
        things.push("which programs these really are (their names were trusted)");
    }
    if things.is_empty() {
        return Vec::new();
    }
    let as_root = as_root(own == 0);
    vec![format!("{}: the doctor runs as {doctor}; run it as {them} or {as_root}", things.join(" and "))]
}
