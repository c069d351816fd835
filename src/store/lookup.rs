//! Who is there: the Sidekiqs of a lifecycle directory, one by its pid, or all that can be seen from here.
//!
//! A process that is registered keeps a descriptor of the `processes` directory that its record is in. So whoever may look
//! into it (its own user, or root) finds the record as `/proc/PID/task/TID/fd/N/OWN_PID`, wherever the directory was put, and across
//! mount namespaces (`proc_pid_fd(5)`). Pids differ between PID namespaces; a process is known by its innermost one
//! (`NSpid`), its start time, and its namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::directory::{DEFAULT, Directory};
use super::entry::Entry;
use super::error::Error;
use super::record::Record;
use crate::model::probe::{Facts, Presence};
use crate::model::program::Sidekiq;
use crate::model::state::State;
use crate::model::text::as_root;
use crate::sys::descriptors;
#[cfg(target_os = "linux")]
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;

/// A Sidekiq, as it is seen from here.
#[derive(Clone, Debug)]
pub struct ObservedProcess {
    /// The pid that it has here; the recorded one where it cannot be seen.
    pub pid: i32,
    /// What it has published about itself, or why that cannot be read: without the gem there is nothing.
    pub record: Result<Record, String>,
    /// Whether it is there.
    pub presence: Presence,
    /// The process in /proc; `None` where it has ended or cannot be seen from here.
    pub snapshot: Option<Snapshot>,
    /// Where its record is; where there is none, where the gem would put it by itself.
    pub directory: Directory,
}

/// Who is registered in a lifecycle directory.
#[derive(Debug, Default)]
pub struct Registered {
    /// Those that are there, also as seen from outside of their container.
    pub living: Vec<ObservedProcess>,
    /// All others: they have ended, cannot be read, or cannot be seen from here.
    pub others: Vec<ObservedProcess>,
}

impl ObservedProcess {
    /// One that is seen in /proc, and its record, if there is one.
    fn seen(snapshot: Snapshot, record: Option<Record>, directory: Directory) -> Self {
        let record = record.ok_or_else(|| why_unknown(&snapshot));
        Self { pid: snapshot.pid, record, presence: Presence::Here, snapshot: Some(snapshot), directory }
    }

    /// One of which only the record is known.
    #[must_use]
    pub fn recorded(entry: Entry, directory: &Directory) -> Self {
        let presence = entry.facts().presence;
        let directory = directory.clone();
        Self { pid: entry.pid, record: entry.record, presence, snapshot: None, directory }
    }

    /// A pidfd of the process that was seen, and of no other. `None`: it has ended.
    ///
    /// # Errors
    /// What the system says: too many open files, or a kernel older than 5.3 (ENOSYS).
    #[cfg(target_os = "linux")]
    pub fn open(&self) -> nix::Result<Option<PidFd>> {
        let Some(snapshot) = &self.snapshot else { return Ok(None) };
        let pidfd = match PidFd::open(snapshot.pid) {
            Err(nix::errno::Errno::ESRCH) => return Ok(None),
            pidfd => pidfd?,
        };
        // Compared once the pidfd is there: from now on nobody else can get the pid unnoticed.
        let is_same = crate::sys::identity::start_time_if_any(pidfd.pid)? == Some(snapshot.start_time);
        Ok(is_same.then_some(pidfd))
    }

    /// What the probes look at.
    #[must_use]
    pub fn facts(&self) -> Facts {
        match &self.record {
            Ok(record) => Facts { pid: self.pid, ..record.facts_with(self.presence) },
            Err(reason) => Facts::unknown(self.pid, self.presence, reason.clone()),
        }
    }
}

/// Why there is no record. Another user's process does not show the descriptor that leads to it.
fn why_unknown(snapshot: &Snapshot) -> String {
    let Snapshot { pid, uid, .. } = snapshot;
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let as_root = as_root(geteuid().is_root());
            format!("it belongs to uid {uid} and may not be looked at; run this as that user or {as_root}")
        }
        _ => NO_RECORD.to_owned(),
    }
}

const NO_RECORD: &str = "none was found, and only a Sidekiq with sidekiq_lifecycle writes one";

/// Who is registered in a directory.
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

/// An embedded Sidekiq has ended while the program that it is part of goes on.
fn has_ended(facts: &Facts) -> bool {
    facts.presence == Presence::Gone || facts.state == State::Stopped
}

/// The Sidekiq with this pid, as the pid is here. `default` is where its record is looked for if it tells no other place.
#[must_use]
pub fn with_pid(pid: i32, default: &Directory) -> Option<ObservedProcess> {
    let snapshot = Snapshot::of(pid).filter(|snapshot| !snapshot.has_ended())?;
    let found = held(&snapshot).or_else(|| recorded(&snapshot, default)).or_else(|| {
        let parent = Snapshot::of(snapshot.parent);
        is_sidekiq(&snapshot, parent.as_slice()).then(|| unregistered(&snapshot))
    });
    found.filter(|found| found.record.as_ref().map_or(true, |record| record.state != State::Stopped))
}

/// What the Sidekiq with this pid has said last, once it has ended. Nothing, if another process has its pid by now.
#[must_use]
pub fn ended(pid: i32, directory: &Directory) -> Option<ObservedProcess> {
    let is_free = || Snapshot::of(pid).is_none_or(|snapshot| snapshot.has_ended());
    let entry = directory.entries_of(pid).ok()?.into_iter().find(|entry| {
        let facts = entry.facts();
        has_ended(&facts) && entry.record.is_ok() && (facts.presence == Presence::Here || is_free())
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

/// By the descriptor that it keeps. A forked child may have it too, but no record. It is the writer's, which has a table of
/// its own where the kernel offers that, and shares that of the process elsewhere.
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

/// The shortest path from here to the directory above what a process has open: what it is called there, the same seen from
/// its root, or through the descriptor itself.
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

/// Of one that keeps no descriptor the directory is where the gem would put it by itself; its variable cannot be seen, for
/// Ruby writes its title over the environment that /proc shows.
fn unregistered(snapshot: &Snapshot) -> ObservedProcess {
    let directory = Directory::new(&default_directory(snapshot), None);
    let without = |directory| ObservedProcess::seen(snapshot.clone(), None, directory);
    recorded(snapshot, &directory).unwrap_or_else(|| without(directory))
}

/// A child that a Sidekiq forks has its title, and is none. A swarm's parent is none either; its children are.
fn is_sidekiq(snapshot: &Snapshot, all: &[Snapshot]) -> bool {
    let is_one = |snapshot: &Snapshot| matches!(snapshot.sidekiq(), Some(Sidekiq::Booting | Sidekiq::Started { .. }));
    let is_child = || all.iter().any(|parent| parent.pid == snapshot.parent && is_one(parent));
    is_one(snapshot) && !is_child()
}

/// Whether a record is that of a process. It speaks of pids as its own PID namespace has them.
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

/// Where the gem puts its directory if nobody says otherwise: below the working directory. A Sidekiq in another mount
/// namespace is reached through /proc.
fn default_directory(snapshot: &Snapshot) -> PathBuf {
    let place = format!("/proc/{}", snapshot.pid);
    match fs::read_link(format!("{place}/cwd")) {
        Ok(directory) if !is_elsewhere(snapshot) => directory.join(DEFAULT),
        _ => PathBuf::from(place).join("cwd").join(DEFAULT),
    }
}

/// Whether a process is in another mount namespace, where a path may mean something else.
#[must_use]
pub fn is_elsewhere(snapshot: &Snapshot) -> bool {
    let mounts = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    mounts("self").is_some_and(|own| mounts(&snapshot.pid.to_string()).is_some_and(|theirs| theirs != own))
}
