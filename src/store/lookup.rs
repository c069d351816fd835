//! Finding Sidekiqs: those of a lifecycle directory, one by its pid, or all that are visible.
//!
//! A registered process keeps a descriptor of the `processes` directory with its record. So any process that may
//! inspect it (its own user, or root) finds the record as `/proc/PID/task/TID/fd/N/OWN_PID`, wherever the directory
//! is, even across mount namespaces (`proc_pid_fd(5)`). Pids differ between PID namespaces; a process is identified
//! by its innermost one (`NSpid`), its start time, and its namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use nix::errno::Errno;
use nix::unistd::geteuid;

use super::directory::{DEFAULT, Directory};
use super::entry::Entry;
use super::error::Error;
use super::record::Record;
use crate::model::job::Job;
use crate::model::probe::{Facts, Presence};
use crate::model::program::Sidekiq;
use crate::model::state::State;
use crate::model::text::as_root;
use crate::sys::descriptors;
#[cfg(target_os = "linux")]
use crate::sys::identity;
#[cfg(target_os = "linux")]
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;

/// A Sidekiq, as seen from here.
#[derive(Clone, Debug)]
pub struct ObservedProcess {
    /// Its pid here; the recorded one if the process is not visible.
    pub pid: i32,
    /// Its record, or why that cannot be read: without the gem there is none.
    pub record: Result<Record, String>,
    /// Whether the process exists.
    pub presence: Presence,
    /// The process in /proc; `None` if it has ended or is not visible from here.
    pub snapshot: Option<Snapshot>,
    /// The directory of its record; without a record, the default place.
    pub directory: Directory,
    /// The jobs that it has in hand at this moment, if that was looked for and it has a flight recorder.
    pub in_hand: Option<Vec<Job>>,
}

/// The registered processes of a lifecycle directory.
#[derive(Debug, Default)]
pub struct Registered {
    /// Those that exist, including those in containers below this namespace.
    pub living: Vec<ObservedProcess>,
    /// All others: they have ended, cannot be read, or are not visible from here.
    pub others: Vec<ObservedProcess>,
}

impl ObservedProcess {
    /// A process in /proc, and its record, if there is one.
    fn seen(snapshot: Snapshot, record: Option<Record>, directory: Directory) -> Self {
        let record = record.ok_or_else(|| why_unknown(&snapshot));
        Self { pid: snapshot.pid, record, presence: Presence::Here, snapshot: Some(snapshot), directory, in_hand: None }
    }

    /// A process of which only the record is known.
    #[must_use]
    pub fn recorded(entry: Entry, directory: &Directory) -> Self {
        let presence = entry.facts().presence;
        let directory = directory.clone();
        Self { pid: entry.pid, record: entry.record, presence, snapshot: None, directory, in_hand: None }
    }

    /// A pidfd of exactly that process. `None`: it has ended.
    ///
    /// # Errors
    /// The system's error: too many open files, or a kernel older than 5.3 (ENOSYS).
    #[cfg(target_os = "linux")]
    pub fn open(&self) -> nix::Result<Option<PidFd>> {
        let Some(snapshot) = &self.snapshot else { return Ok(None) };
        let pidfd = match PidFd::open(snapshot.pid) {
            Err(Errno::ESRCH) => return Ok(None),
            pidfd => pidfd?,
        };
        // Compared after the pidfd exists: from then on no other process can get the pid unnoticed.
        let is_same = identity::start_time_if_any(pidfd.pid)? == Some(snapshot.start_time);
        Ok(is_same.then_some(pidfd))
    }

    /// The input of the probes.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts_with(self.presence)
    }

    /// The same with a presence that is known better by now.
    #[must_use]
    pub fn facts_with(&self, presence: Presence) -> Facts {
        match &self.record {
            Ok(record) => Facts { pid: self.pid, ..record.facts_with(presence) },
            Err(reason) => Facts::unknown(self.pid, presence, reason.clone()),
        }
    }
}

/// Why there is no record. A process of another user hides the descriptor that leads to it.
fn why_unknown(snapshot: &Snapshot) -> String {
    let Snapshot { pid, uid, .. } = snapshot;
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let as_root = as_root(geteuid().is_root());
            format!("it belongs to uid {uid} and may not be inspected; run this as that user or {as_root}")
        }
        _ => NO_RECORD.to_owned(),
    }
}

const NO_RECORD: &str = "none was found, and only a Sidekiq with sidekiq_lifecycle writes one";

/// What the records of a directory say, the one with the latest news last.
///
/// # Errors
/// The directory is missing or cannot be read.
pub fn all_recorded(directory: &Directory) -> Result<Vec<ObservedProcess>, Error> {
    let entries = directory.read()?;
    Ok(entries.into_iter().map(|entry| ObservedProcess::recorded(entry, directory)).collect())
}

/// The registered processes of a directory.
///
/// # Errors
/// The directory is missing or cannot be read.
pub fn registered(directory: &Directory) -> Result<Registered, Error> {
    let mut all: Option<Vec<Snapshot>> = None;
    let mut registered = Registered::default();
    for entry in directory.read()? {
        let facts = entry.facts();
        let record = entry.record.as_ref().ok().filter(|_| !has_ended(&facts));
        let snapshot = record.and_then(|record| match facts.presence {
            Presence::Gone => None,
            Presence::Here => Snapshot::of(record.identity.pid).filter(|snapshot| is_of(record, snapshot)),
            Presence::Elsewhere => {
                let all = all.get_or_insert_with(Snapshot::living);
                all.iter().find(|snapshot| is_of(record, snapshot) && snapshot.namespace.is_some()).cloned()
            }
        });
        match snapshot {
            Some(snapshot) => {
                registered.living.push(ObservedProcess::seen(snapshot, entry.record.ok(), directory.clone()));
            }
            None => registered.others.push(ObservedProcess::recorded(entry, directory)),
        }
    }
    Ok(registered)
}

/// An embedded Sidekiq may end while its host program goes on.
fn has_ended(facts: &Facts) -> bool {
    facts.presence == Presence::Gone || facts.state == State::Stopped
}

/// The Sidekiq with this pid, in this PID namespace. `default` is where its record is expected if the process does
/// not lead to another place.
#[must_use]
pub fn with_pid(pid: i32, default: &Directory) -> Option<ObservedProcess> {
    let snapshot = Snapshot::of(pid).filter(|snapshot| !snapshot.has_ended())?;
    let found = held(&snapshot).or_else(|| recorded(&snapshot, default)).or_else(|| {
        let parent = Snapshot::of(snapshot.parent);
        is_sidekiq(&snapshot, parent.as_slice()).then(|| unregistered(&snapshot))
    });
    found.filter(|found| found.record.as_ref().map_or(true, |record| record.state != State::Stopped))
}

/// The last record of the Sidekiq with this pid, after its end. None if another process has its pid by now.
#[must_use]
pub fn ended(pid: i32, directory: &Directory) -> Option<ObservedProcess> {
    let child_in_background = || Snapshot::of(pid).is_none_or(|snapshot| snapshot.has_ended());
    let entry = directory.entries_of(pid).ok()?.into_iter().find(|entry| {
        let facts = entry.facts();
        has_ended(&facts) && entry.record.is_ok() && (facts.presence == Presence::Here || child_in_background())
    });
    entry.map(|entry| ObservedProcess::recorded(entry, directory))
}

/// All Sidekiqs among these processes.
#[must_use]
pub fn among(all: &[Snapshot]) -> Vec<ObservedProcess> {
    let find =
        |snapshot: &Snapshot| held(snapshot).or_else(|| is_sidekiq(snapshot, all).then(|| unregistered(snapshot)));
    let counts = |found: &ObservedProcess| found.record.as_ref().map_or(true, |record| record.state != State::Stopped);
    all.iter().filter_map(find).filter(counts).collect()
}

/// By the descriptor that it keeps. A forked child may have it too, but has no record. The descriptor is in the table
/// of the writer thread: a table of its own if the kernel supports that, otherwise that of the process.
fn held(snapshot: &Snapshot) -> Option<ObservedProcess> {
    let process = PathBuf::from(format!("/proc/{}", snapshot.pid));
    held_in(snapshot, &process).or_else(|| {
        let threads = fs::read_dir(process.join("task")).ok()?.flatten().map(|thread| thread.path());
        let is_writer = |thread: &PathBuf| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == descriptors::THREAD)
        };
        threads.filter(is_writer).find_map(|thread| held_in(snapshot, &thread))
    })
}

fn held_in(snapshot: &Snapshot, thread: &Path) -> Option<ObservedProcess> {
    fs::read_dir(thread.join("fd")).ok()?.flatten().find_map(|descriptor| {
        let link = descriptor.path();
        let target = fs::read_link(&link).ok().filter(|target| target.ends_with("processes"))?;
        recorded(snapshot, &Directory::new(&way_to(snapshot, &link, &target), None))
    })
}

/// The shortest path from here to the directory above an open descriptor: its own name, the same below the process's
/// root, or through the descriptor itself.
fn way_to(snapshot: &Snapshot, link: &Path, target: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let place = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let from_root =
        target.strip_prefix("/").map(|rest| PathBuf::from(format!("/proc/{}/root", snapshot.pid)).join(rest));
    let ways = std::iter::once(target.to_owned()).chain(from_root.ok());
    let way = ways
        .filter(|way| place(way).is_some() && place(way) == place(link))
        .find_map(|way| way.parent().map(Path::to_owned));
    way.unwrap_or_else(|| link.join(".."))
}

fn recorded(snapshot: &Snapshot, directory: &Directory) -> Option<ObservedProcess> {
    let records = directory.entries_of(snapshot.own_pid()).ok()?.into_iter().filter_map(|entry| entry.record.ok());
    let record = records.into_iter().find(|record| is_of(record, snapshot))?;
    Some(ObservedProcess::seen(snapshot.clone(), Some(record), directory.clone()))
}

/// For a process without such a descriptor, the directory is the default place; its environment variable is not
/// visible, because Ruby writes its title over the environment that /proc shows.
fn unregistered(snapshot: &Snapshot) -> ObservedProcess {
    let directory = Directory::new(&default_directory(snapshot), None);
    let without = |directory| ObservedProcess::seen(snapshot.clone(), None, directory);
    recorded(snapshot, &directory).unwrap_or_else(|| without(directory))
}

/// A child that a Sidekiq forks has its title, but is not one. Nor is a swarm's parent; its children are.
fn is_sidekiq(snapshot: &Snapshot, all: &[Snapshot]) -> bool {
    let is_one = |snapshot: &Snapshot| matches!(snapshot.sidekiq(), Some(Sidekiq::Booting | Sidekiq::Started { .. }));
    let is_child = || all.iter().any(|parent| parent.pid == snapshot.parent && is_one(parent));
    is_one(snapshot) && !is_child()
}

/// Whether a record belongs to a process. It has pids of the process's own PID namespace.
#[must_use]
pub fn is_of(record: &Record, snapshot: &Snapshot) -> bool {
    let is_same_place = match (record.identity.pid_namespace, snapshot.namespace) {
        (Some(recorded), Some(seen)) => recorded == seen,
        _ => true,
    };
    is_same_place
        && !record.identity.is_of_another_boot()
        && record.identity.pid == snapshot.own_pid()
        && record.identity.start_time == Some(snapshot.start_time)
}

/// The gem's default directory, below the working directory. A Sidekiq in another mount namespace is reached through
/// /proc.
fn default_directory(snapshot: &Snapshot) -> PathBuf {
    let place = format!("/proc/{}", snapshot.pid);
    match fs::read_link(format!("{place}/cwd")) {
        Ok(directory) if !is_elsewhere(snapshot) => directory.join(DEFAULT),
        _ => PathBuf::from(place).join("cwd").join(DEFAULT),
    }
}

/// Whether a process is in another mount namespace, where a path may be another file.
#[must_use]
pub fn is_elsewhere(snapshot: &Snapshot) -> bool {
    let mounts = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    mounts("self").is_some_and(|own| mounts(&snapshot.pid.to_string()).is_some_and(|theirs| theirs != own))
}
