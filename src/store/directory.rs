//! The lifecycle directory: where a process says what it is, for anyone to read.
//!
//! ```text
//! ready            exists exactly while every live Sidekiq of this directory is ready
//! drained          exists exactly while every live Sidekiq of this directory is drained
//! processes/PID    one status record a process; it has another [name] where containers share the directory
//! ```
//!
//! A file appears whole or not at all: written aside, flushed, renamed; only where no room is left for that, a record
//! is written over the old one. The directory may lie where another user can write, so everything in it is reached
//! through a descriptor of the directory itself, no symbolic link is followed, and nothing outside is touched
//! (`openat(2)`, `O_NOFOLLOW`). One exception is asked for by name: the ready file, where the application chose a place
//! of its own; it is only ever replaced or removed if it is ours.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, getpid, unlinkat};
use thiserror::Error;

use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe, sentinel};
use crate::model::state::State;
use crate::store::record::Record;
use crate::sys::identity::{self, Identity};

pub mod health;
mod name;
#[cfg(test)]
mod tests;

/// Where the directory is when nobody says otherwise, below the application's root.
pub const DEFAULT: &str = "tmp/sidekiq";

const PROCESSES: &str = "processes";
/// What every ready and drained file begins with; it tells ours from anybody else's.
const SIGNATURE: &str = "sidekiq_lifecycle";
/// Far more than a record with the longest messages has; with many hostile ones it is what each costs.
const RECORD_LIMIT: u64 = 256 * 1024;

/// What can be wrong with a lifecycle directory: what, where, and what to do.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such directory.
    #[error("{0} does not exist: no Sidekiq has registered there")]
    Missing(PathBuf),
    /// A symbolic link stands in its place.
    #[error("{0} is a symbolic link, and none is followed here; set the directory to what it points to")]
    Symlink(PathBuf),
    /// Something else stands in its place.
    #[error("{0} is not a directory; remove it or set another directory")]
    NotADirectory(PathBuf),
    /// The process may not use it.
    #[error("{path} is not accessible to uid {uid} ({errno}); give that user the right to write there or set another directory", errno = .errno.desc())]
    Forbidden {
        /// What may not be used.
        path: PathBuf,
        /// By whom.
        uid: u32,
        /// The system's word.
        errno: Errno,
    },
    /// The process may not read it.
    #[error("{path} is not accessible to uid {uid} ({errno}); run this as a user who may read it, or as root", errno = .errno.desc())]
    Unreadable {
        /// What may not be read.
        path: PathBuf,
        /// By whom.
        uid: u32,
        /// The system's word.
        errno: Errno,
    },
    /// The file system is read-only.
    #[error("{0} is on a read-only file system; mount a writable volume there or set another directory")]
    ReadOnly(PathBuf),
    /// No space is left.
    #[error("{0} is on a full file system; make room there or set another directory")]
    Full(PathBuf),
    /// A file of somebody else's stands where the ready file should be.
    #[error(
        "{0} is there already and is not a ready file of sidekiq_lifecycle; move it away or set another ready_file"
    )]
    NotOurs(PathBuf),
    /// The disk does not answer.
    #[error("{0} does not answer, so what it says is out of date; look at the disk or the mount that it is on")]
    Late(PathBuf),
    /// Anything else.
    #[error("{path}: {errno}", errno = .errno.desc())]
    Other {
        /// Where.
        path: PathBuf,
        /// The system's word.
        errno: Errno,
    },
}

impl Error {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::ENOENT => Self::Missing(path),
            Errno::EACCES | Errno::EPERM => Self::Forbidden { path, uid: geteuid().as_raw(), errno },
            Errno::EROFS => Self::ReadOnly(path),
            Errno::ENOSPC | Errno::EDQUOT => Self::Full(path),
            Errno::ELOOP => Self::Symlink(path),
            Errno::ENOTDIR => Self::NotADirectory(path),
            errno => Self::Other { path, errno },
        }
    }

    /// For whoever only reads: the right to write would be no help.
    fn of_a_reader(self) -> Self {
        match self {
            Self::Forbidden { path, uid, errno } => Self::Unreadable { path, uid, errno },
            other => other,
        }
    }

    /// Whether the process had no descriptor left, or the system none.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, Self::Other { errno: Errno::EMFILE | Errno::ENFILE, .. })
    }
}

/// A lifecycle directory, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    path: PathBuf,
    ready_file: Option<PathBuf>,
}

/// Whether a write must survive a power cut (a change of state) or only be whole (a beat).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Whole, but left to the system to write out.
    Whole,
    /// Flushed to the disk before it shows.
    Flushed,
}

/// What stands in `processes`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    name: String,
    /// The pid, from the name.
    pub pid: i32,
    /// The record, or why it cannot be read.
    pub record: Result<Record, String>,
    /// When it was written, as the file system says.
    pub written: Option<SystemTime>,
}

impl Entry {
    /// What the probes ask for.
    #[must_use]
    pub fn facts(&self) -> Facts {
        match &self.record {
            Ok(record) => record.facts(),
            Err(reason) => {
                let presence = match () {
                    () if !name::is_of(&self.name, &Identity { pid: self.pid, ..Identity::own() }) => {
                        Presence::Elsewhere
                    }
                    () if self.may_be_of_the_living() => Presence::Here,
                    () => Presence::Gone,
                };
                Facts::unknown(self.pid, presence, reason.clone())
            }
        }
    }

    /// What the sentinels ask for, which speak of all containers: a Sidekiq of another one is there, if it lives beside `own`
    /// process.
    #[must_use]
    pub fn facts_beside(&self, own: &Record) -> Facts {
        let facts = self.facts();
        if self.is_strangers(own) { Facts { presence: Presence::Here, ..facts } } else { facts }
    }

    /// An unreadable record tells no start time, so the pid in its name may be another process's by now. A Sidekiq
    /// writes its record at every beat: what was written longer ago than a heart may be silent is nobody's.
    fn may_be_of_the_living(&self) -> bool {
        let age = self.written.and_then(|written| written.elapsed().ok());
        identity::exists(self.pid) && age.is_none_or(|age| age <= MAX_BEAT_AGE)
    }

    /// Whether the process has ended, or was last heard of long ago in another container.
    fn is_left_over(&self) -> bool {
        match (self.facts().presence, &self.record) {
            (Presence::Here, _) => false,
            (Presence::Elsewhere, Ok(record)) => record.state == State::Stopped || record.silence() > MAX_BEAT_AGE,
            _ => true,
        }
    }

    /// Whether it is the record of that process, or stands in its place.
    fn is_of(&self, identity: &Identity) -> bool {
        match &self.record {
            Ok(record) => record.identity.pid == identity.pid && record.identity.is_of_same_place(identity),
            Err(_) => name::is_of(&self.name, identity),
        }
    }

    /// Whether it is a Sidekiq's of another container or machine that has beaten since `own` process began: it lives beside
    /// that one, and is not what a container has left that was killed.
    fn is_strangers(&self, own: &Record) -> bool {
        let began = own.timings.get(&State::Booting.to_string());
        let has_beaten = |record: &Record| record.beat.as_ref() > began && began.is_some();
        self.facts().presence == Presence::Elsewhere
            && !self.is_left_over()
            && self.record.as_ref().is_ok_and(has_beaten)
    }
}

impl Directory {
    /// The directory at `path`; its ready file is its own `ready`, unless the application chose another place.
    #[must_use]
    pub fn new(path: &Path, ready_file: Option<&Path>) -> Self {
        // Without a trailing slash or dot: with one, the system would follow a symbolic link.
        let tidy = |path: &Path| path.components().collect::<PathBuf>();
        let path = tidy(path);
        let ready_file = ready_file.map(tidy).filter(|file| *file != path.join(Probe::Ready.to_string()));
        Self { path, ready_file }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ready file, where it is not the directory's own.
    #[must_use]
    pub fn ready_file(&self) -> Option<&Path> {
        self.ready_file.as_deref()
    }

    /// All that is registered, the one heard of last at the end. Nothing is created, changed or locked.
    ///
    /// # Errors
    /// The directory is missing or cannot be read.
    pub fn read(&self) -> Result<Vec<Entry>, Error> {
        let entries = open_directory(&self.path).and_then(|top| match self.open_processes(&top) {
            Ok(processes) => self.entries(&processes, &|| {}),
            Err(Error::Missing(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        });
        entries.map_err(Error::of_a_reader)
    }

    /// What processes with this pid have registered: one of each PID namespace that uses the directory.
    ///
    /// # Errors
    /// As [`Directory::read`].
    pub fn entries_of(&self, pid: i32) -> Result<Vec<Entry>, Error> {
        Ok(self.processes()?.entries_of(pid))
    }

    /// Opens `processes` to read.
    ///
    /// # Errors
    /// As [`Directory::read`].
    pub fn processes(&self) -> Result<Processes, Error> {
        let descriptor = self.open_processes(&open_directory(&self.path)?)?;
        let stat = fstat(&descriptor).map_err(|errno| Error::new(&self.path, errno))?;
        Ok(Processes { place: place(&stat), descriptor })
    }

    /// Opens the directory, made if need be (mode 0755 less the umask).
    ///
    /// # Errors
    /// It can be neither opened nor made.
    pub fn open(&self) -> Result<Open<'_>, Error> {
        self.open_with(&|| false)
    }

    /// The same for a writer that can be interrupted: while others' records are read or the lock is waited for, it asks
    /// `is_urgent` over and over, and withdraws the ready file when it says so.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_with<'a>(&'a self, is_urgent: &'a dyn Fn() -> bool) -> Result<Open<'a>, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&self.path);
        let top = match (open_directory(&self.path), made) {
            // Why it could not be made says more than that it is not there.
            (Err(Error::Missing(path)), Err(error)) => return Err(Error::new(&path, errno(&error))),
            (top, _) => top?,
        };
        match mkdirat(&top, PROCESSES, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::new(&self.path, errno)),
        }
        let processes = self.open_processes(&top)?;
        Ok(Open { directory: self, top, processes, is_urgent })
    }

    fn open_processes(&self, top: &OwnedFd) -> Result<OwnedFd, Error> {
        openat(top, PROCESSES, DIRECTORY, Mode::empty()).map_err(|errno| not_opened(&self.path.join(PROCESSES), errno))
    }

    /// All entries; calls `between` after each that is read, for there may be many.
    fn entries(&self, processes: &OwnedFd, between: &dyn Fn()) -> Result<Vec<Entry>, Error> {
        let path = self.path.join(PROCESSES);
        let names = record_names(processes, |_| true).map_err(|errno| Error::new(&path, errno))?;
        let mut entries: Vec<Entry> =
            names.into_iter().filter_map(|name| entry(processes, name)).inspect(|_| between()).collect();
        entries.sort_by_key(|entry| (entry.record.as_ref().ok().map(|record| record.since), entry.pid));
        entries.dedup_by(|one, other| one.record.as_ref().is_ok_and(|record| other.record.as_ref() == Ok(record)));
        Ok(entries)
    }
}

/// A descriptor of `processes`. A process that is registered there keeps one, by which an observer finds its record
/// ([`crate::store::lookup`]); an observer keeps one to read what a process has said last, when the way there is gone with it.
#[derive(Debug)]
pub struct Processes {
    descriptor: OwnedFd,
    /// Device and inode.
    place: (u64, u64),
}

impl Processes {
    /// What processes with this pid have registered: one of each PID namespace that uses the directory.
    #[must_use]
    pub fn entries_of(&self, pid: i32) -> Vec<Entry> {
        let names = record_names(&self.descriptor, |its| its == pid).unwrap_or_default();
        names.into_iter().filter_map(|name| entry(&self.descriptor, name)).collect()
    }

    /// Whether the descriptor still is what it was: in somebody else's process, others may close what is not theirs.
    fn is_sound(&self) -> bool {
        fstat(&self.descriptor).is_ok_and(|stat| place(&stat) == self.place)
    }

    /// Leaves the descriptor open: its number is somebody else's by now, and not ours to close.
    fn forget(self) {
        let _ = self.descriptor.into_raw_fd();
    }
}

/// What a writer keeps of the directory between two writings: a descriptor of `processes` by which others find the record,
/// and copies of it, to give up when the process has no descriptor left.
#[derive(Debug, Default)]
pub struct Kept(Vec<Processes>);

/// As many descriptors as a writing needs at once: the directory, `processes`, the place of a ready file elsewhere, the
/// lock, and the file that is written.
const NEEDED: usize = 5;

impl Kept {
    /// Keeps what `open` has opened, with `spare` copies to give up, once nothing else is done with it. What was kept before
    /// stays, unless the directory was made anew since.
    pub fn keep(&mut self, open: Open<'_>, spare: bool) {
        let Open { top, processes, .. } = open;
        drop(top);
        let Some(place) = fstat(&processes).ok().map(|stat| place(&stat)) else { return };
        for held in std::mem::take(&mut self.0) {
            match held.is_sound() {
                true if held.place == place => self.0.push(held),
                true => drop(held),
                false => held.forget(),
            }
        }
        let wanted = if spare { NEEDED } else { 1 };
        if self.0.len() < wanted {
            self.0.push(Processes { descriptor: processes, place });
        }
        while let Some(first) = self.0.first().filter(|_| self.0.len() < wanted) {
            let Ok(descriptor) = first.descriptor.try_clone() else { return };
            self.0.push(Processes { descriptor, place });
        }
    }

    /// Gives up all descriptors, and says whether there were any.
    pub fn let_go(&mut self) -> bool {
        let held = std::mem::take(&mut self.0);
        let is_any = !held.is_empty();
        held.into_iter().for_each(|held| if held.is_sound() { drop(held) } else { held.forget() });
        is_any
    }
}

/// A lifecycle directory, opened to write.
pub struct Open<'a> {
    directory: &'a Directory,
    top: OwnedFd,
    processes: OwnedFd,
    is_urgent: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Open<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Open").field(&self.directory).finish()
    }
}

impl Open<'_> {
    /// Keeps other writers out until the guard is dropped, so that no sentinel is put up from records that change
    /// meanwhile. A writer that was stopped in the middle is waited for a fifth of a second, not for ever; without
    /// the lock the worst is a sentinel that lies until the next beat.
    ///
    /// `flock(2)` on the directory itself, released by name when the guard is dropped: a child forked in between
    /// cannot keep it.
    #[must_use]
    pub fn lock(&self) -> Option<Flock<OwnedFd>> {
        let mut descriptor = openat(&self.top, PROCESSES, DIRECTORY, Mode::empty()).ok()?;
        for _ in 0..40 {
            match Flock::lock(descriptor, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Some(lock),
                Err((returned, Errno::EAGAIN | Errno::EINTR)) => descriptor = returned,
                Err(_) => return None,
            }
            self.attend();
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Writes a process's record. Where there is no room the old one is written over, for a health check must not take
    /// a full disk for a dead process; where that fails too it is withdrawn: none is better than an untrue one.
    ///
    /// # Errors
    /// It could not be written.
    pub fn publish_record(&self, record: &Record, durability: Durability) -> Result<(), Error> {
        let path = || self.directory.path.join(PROCESSES);
        let json = record.to_json().map_err(|_| Error::Other { path: path(), errno: Errno::EINVAL })?;
        let (name, _lock) = self.name_of(&record.identity);
        let published = publish(&self.processes, name.as_str(), json.as_bytes(), durability, &|| true);
        published.map_err(|errno| {
            let is_full = matches!(errno, Errno::ENOSPC | Errno::EDQUOT);
            if !is_full || overwrite(&self.processes, &name, json.into_bytes()).is_err() {
                let _ = unlinkat(&self.processes, name.as_str(), UnlinkatFlags::NoRemoveDir);
            }
            match errno {
                Errno::EISDIR | Errno::ENOTEMPTY => Error::Other { path: path().join(&name), errno },
                errno => Error::new(&path(), errno),
            }
        })?;
        match name::long(&record.identity) {
            // From when another had the ordinary one.
            Some(long) if long != name => {
                remove(&self.processes, long.as_str()).map_err(|errno| Error::new(&path(), errno))
            }
            _ => Ok(()),
        }
    }

    /// What a process's record is to be called now. While the ordinary name is free, nobody else may take it until the guard
    /// is dropped.
    fn name_of(&self, identity: &Identity) -> (String, Option<Flock<OwnedFd>>) {
        let short = name::short(identity);
        let Some(long) = name::long(identity) else { return (short, None) };
        let entry_now = || entry(&self.processes, short.clone());
        let is_free = |entry: &Option<Entry>| entry.as_ref().is_none_or(Entry::is_left_over);
        match entry_now() {
            Some(entry) if entry.is_of(identity) => (short, None),
            entry if is_free(&entry) => {
                let lock = self.lock();
                if is_free(&entry_now()) { (short, lock) } else { (long, None) }
            }
            _ => (long, None),
        }
    }

    /// The pid of a Sidekiq of another container, or on another machine, that uses this directory as well: it has beaten
    /// since `own` process began.
    #[must_use]
    pub fn stranger(&self, own: &Record) -> Option<i32> {
        let entries = self.entries().unwrap_or_default();
        entries.iter().find(|entry| entry.is_strangers(own)).map(|entry| entry.pid)
    }

    /// Removes one process's record.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn withdraw_record(&self, identity: &Identity) -> Result<(), Error> {
        let names = std::iter::once(name::short(identity)).chain(name::long(identity));
        let is_its_own = |name: &String| entry(&self.processes, name.clone()).is_none_or(|entry| entry.is_of(identity));
        names.filter(is_its_own).try_for_each(|name| self.remove_record(&name))
    }

    fn remove_record(&self, name: &str) -> Result<(), Error> {
        remove(&self.processes, name).map_err(|errno| Error::new(&self.directory.path.join(PROCESSES), errno))
    }

    /// Removes the ready file, whatever anybody's state is: the first thing to do when this process stops being ready.
    ///
    /// # Errors
    /// It is there and cannot be removed, or is not ours.
    pub fn withdraw_ready(&self) -> Result<(), Error> {
        self.take_down(Probe::Ready)
    }

    /// Puts up and takes down the sentinels, as the records say. `own` tells the calling process's record as it is now.
    ///
    /// # Errors
    /// The records cannot be read, or a sentinel cannot be changed.
    pub fn settle(&self, own: impl Fn() -> Option<Record>) -> Result<(), Error> {
        // Asked before the records are read: a process that stops being ready withdraws the file before all else, so
        // one that vanishes meanwhile must not be put up again.
        let stands = self.ready_stands();
        let own_now = || own().map(|record| record.facts_with(Presence::Here));
        let facts = self.facts(own())?;
        let settle = |probe| {
            if !sentinel(&facts, probe) {
                return self.take_down(probe);
            }
            self.put_up(probe, &|| own_now().is_none_or(|own| sentinel(&[own], probe)))
        };
        let ready = if stands && sentinel(&facts, Probe::Ready) { Ok(()) } else { settle(Probe::Ready) };
        ready.and(settle(Probe::Drained))
    }

    /// The seconds that hooks took at the last stop of each process that has registered, as far as it says so.
    #[must_use]
    pub fn hooks(&self) -> Vec<f64> {
        let entries = self.entries().unwrap_or_default();
        entries.into_iter().filter_map(|entry| entry.record.ok()?.hooks).collect()
    }

    /// Clears what ended processes left: records, half-written files, ready files they had put elsewhere, and the
    /// sentinels if nobody stands behind them any more. Nothing is put up.
    ///
    /// # Errors
    /// Something could not be removed; the first such thing is named, and all else is cleared.
    pub fn sweep(&self) -> Result<(), Error> {
        let left_over = self.sweep_records()?;
        let half_written = [&self.top, &self.processes]
            .map(|directory| remove_half_written(directory).map_err(|errno| Error::new(&self.directory.path, errno)));
        let mut done: Vec<Result<(), Error>> = left_over.into_iter().chain(half_written).collect();
        if self.directory.ready_file.is_some() {
            // From the days before the application chose another place for it.
            let name = Probe::Ready.to_string();
            let path = self.directory.path.join(&name);
            done.push(remove(&self.top, name.as_str()).map_err(|errno| sentinel_error(&path, errno)));
        }
        let facts = self.facts(None)?;
        let untrue = [Probe::Ready, Probe::Drained].into_iter().filter(|probe| !sentinel(&facts, *probe));
        done.extend(untrue.map(|probe| self.take_down(probe)));
        done.into_iter().collect()
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        self.directory.entries(&self.processes, &|| self.attend())
    }

    /// Does at once what cannot wait.
    fn attend(&self) {
        if (self.is_urgent)() {
            // Where it fails, it fails again when the sentinels are settled, and is reported then.
            let _ = self.withdraw_ready();
        }
    }

    fn sweep_records(&self) -> Result<Vec<Result<(), Error>>, Error> {
        let user = geteuid().as_raw();
        let entries = self.entries()?;
        let clear = |entry: &Entry| {
            let own = fstatat(&self.processes, entry.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_uid == user);
            let elsewhere = entry.record.as_ref().ok().and_then(|record| record.ready_file.as_ref());
            // A record is believed about files elsewhere only if nobody else can have written it.
            if let Some(file) = elsewhere.filter(|_| own) {
                let _ = take_down_elsewhere(Path::new(file));
            }
            self.remove_record(&entry.name)
        };
        Ok(entries.iter().filter(|entry| entry.is_left_over()).map(clear).collect())
    }

    /// What the probes ask for, of every process of the directory; `own` stands in place of the calling process's
    /// record. Those that live beside it in other containers are there as well: the sentinels speak of all.
    fn facts(&self, own: Option<Record>) -> Result<Vec<Facts>, Error> {
        let entries = self.entries()?;
        let is_others = |entry: &&Entry| own.as_ref().is_none_or(|own| !entry.is_of(&own.identity));
        let facts = |entry: &Entry| own.as_ref().map_or_else(|| entry.facts(), |own| entry.facts_beside(own));
        let others: Vec<Facts> = entries.iter().filter(is_others).map(facts).collect();
        Ok(others.into_iter().chain(own.map(|own| own.facts_with(Presence::Here))).collect())
    }

    fn ready_stands(&self) -> bool {
        match &self.directory.ready_file {
            Some(file) => open_parent(file).is_ok_and(|(parent, name)| is_ours(&parent, name) == Ok(true)),
            None => fstatat(&self.top, Probe::Ready.to_string().as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| is_regular(&stat)),
        }
    }

    fn put_up(&self, probe: Probe, still: Still<'_>) -> Result<(), Error> {
        if let (Probe::Ready, Some(file)) = (probe, &self.directory.ready_file) {
            return put_up_elsewhere(file, still);
        }
        let name = probe.to_string();
        match fstatat(&self.top, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_regular(&stat) => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => publish_sentinel(&self.top, name.as_str(), probe, still),
            Err(errno) => Err(errno),
        }
        .map_err(|errno| sentinel_error(&self.directory.path.join(&name), errno))
    }

    fn take_down(&self, probe: Probe) -> Result<(), Error> {
        if let (Probe::Ready, Some(file)) = (probe, &self.directory.ready_file) {
            return take_down_elsewhere(file);
        }
        let name = probe.to_string();
        match fstatat(&self.top, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => remove(&self.top, name.as_str()),
            // Not left to unlink: a read-only file system says EROFS of a file that is not there.
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
        .map_err(|errno| sentinel_error(&self.directory.path.join(&name), errno))
    }
}

/// Asked at the last moment before a sentinel is put up: whether it is still true of the calling process. Meanwhile
/// the disk may have kept us waiting, and a signal have arrived.
type Still<'a> = &'a dyn Fn() -> bool;

/// The ready file in a place the application chose. Links among its parents are the application's own doing
/// (`current/tmp/pids`); the file itself is neither followed nor touched unless it is ours.
fn put_up_elsewhere(file: &Path, still: Still<'_>) -> Result<(), Error> {
    let error = |errno| Error::new(file, errno);
    if let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|made| not_opened(parent, errno(&made)))?;
    }
    let (parent, name) = open_parent(file).map_err(error)?;
    match is_ours(&parent, name) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotOurs(file.to_owned())),
        Err(Errno::ENOENT) => publish_sentinel(&parent, name, Probe::Ready, still).map_err(error),
        Err(errno) => Err(error(errno)),
    }
}

fn take_down_elsewhere(file: &Path) -> Result<(), Error> {
    let taken_down = match open_parent(file) {
        // What is not ours was never a promise of ours; there is nothing to take back.
        Ok((parent, name)) if is_ours(&parent, name) == Ok(true) => remove(&parent, name),
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    };
    taken_down.map_err(|errno| Error::new(file, errno))
}

/// The directory a file is in, and its name there. Here links are followed.
fn open_parent(file: &Path) -> nix::Result<(OwnedFd, &OsStr)> {
    let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return Err(Errno::EISDIR) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok((nix::fcntl::open(parent, flags, Mode::empty())?, name))
}

/// A file of ours begins with the signature. An empty one is taken over as well: it is what a home-made
/// `touch` at `:startup` has left.
fn is_ours(parent: &OwnedFd, name: &OsStr) -> nix::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    if !is_regular(&fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?) {
        return Ok(false);
    }
    let file = openat(parent, name, flags, Mode::empty())?;
    if !is_regular(&fstat(&file)?) {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::from(file).take(SIGNATURE.len() as u64).read_to_end(&mut start).map_err(|error| errno(&error))?;
    Ok(start.is_empty() || start == SIGNATURE.as_bytes())
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    // "." keeps an empty path from meaning nothing.
    let name = if path.components().next().is_none() { Path::new(".") } else { path };
    nix::fcntl::open(name, DIRECTORY, Mode::empty()).map_err(|errno| not_opened(path, errno))
}

/// With `O_DIRECTORY | O_NOFOLLOW` Linux says ENOTDIR of a symbolic link too (`open(2)`), which would send people
/// looking for a file; and of two reasons for ENOTDIR, the file may stand further up.
fn not_opened(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::ENOTDIR | Errno::ELOOP if path.is_symlink() => Error::Symlink(path.to_owned()),
        Errno::ENOTDIR | Errno::EEXIST => {
            let culprit = path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
            Error::NotADirectory(culprit.unwrap_or(path).to_owned())
        }
        errno => Error::new(path, errno),
    }
}

fn sentinel_error(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::EISDIR | Errno::EEXIST | Errno::ENOTEMPTY => Error::NotOurs(path.to_owned()),
        errno => Error::new(path, errno),
    }
}

fn publish_sentinel<P: ?Sized + NixPath>(
    directory: &OwnedFd,
    name: &P,
    probe: Probe,
    still: Still<'_>,
) -> nix::Result<()> {
    match publish(directory, name, format!("{SIGNATURE} {probe}\n").as_bytes(), Durability::Flushed, still) {
        Err(Errno::ECANCELED) => Ok(()),
        published => published,
    }
}

fn publish<P: ?Sized + NixPath>(
    directory: &OwnedFd,
    name: &P,
    contents: &[u8],
    durability: Durability,
    still: Still<'_>,
) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // tempfile finds the name; the root it is given is never looked at, the descriptor says where.
    let (mut file, aside) = tempfile::Builder::new()
        .prefix(&half_written_prefix(getpid().as_raw()))
        .suffix(HALF_WRITTEN)
        .make_in("/", |path| {
            let aside = path.file_name().unwrap_or_default();
            Ok(File::from(openat(directory, aside, flags, Mode::from_bits_truncate(0o644))?))
        })
        .map_err(|error| errno(&error))?
        .into_parts();
    let aside = aside.keep().map_err(|kept| errno(&kept.error))?;
    let aside = aside.components().next_back().map(Component::as_os_str).unwrap_or_default();
    let written = file
        .write_all(contents)
        .and_then(|()| if durability == Durability::Flushed { file.sync_all() } else { Ok(()) })
        .map_err(|error| errno(&error))
        .and_then(|()| if still() { renameat(directory, aside, directory, name) } else { Err(Errno::ECANCELED) });
    if written.is_err() {
        let _ = unlinkat(directory, aside, UnlinkatFlags::NoRemoveDir);
    } else if durability == Durability::Flushed {
        flush(directory);
    }
    written
}

/// Writes over a file of ours, in one go and with no more room than it has: a shorter text is filled up with spaces.
fn overwrite(directory: &OwnedFd, name: &str, mut contents: Vec<u8>) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    // With a second name it would be written to outside of the directory as well.
    if !is_regular(&stat) || stat.st_nlink != 1 || stat.st_uid != geteuid().as_raw() {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(stat.st_size).unwrap_or_default();
    contents.resize(contents.len().max(size), b' ');
    File::from(file).write_all_at(&contents, 0).map_err(|error| errno(&error))
}

/// What was done in a directory survives a power cut, as far as the file system can promise it; some cannot
/// (`fsync(2)`: EINVAL), and that undoes nothing.
fn flush(directory: &OwnedFd) {
    let _ = fsync(directory);
}

const HALF_WRITTEN: &str = ".half-written";

fn half_written_prefix(pid: i32) -> String {
    format!(".{pid}.")
}

/// Files a process was killed in the midst of writing.
fn remove_half_written(directory: &OwnedFd) -> nix::Result<()> {
    for name in names(directory)? {
        let writer = name.strip_suffix(HALF_WRITTEN).and_then(|rest| rest.strip_prefix('.')?.split('.').next());
        let writer = writer.and_then(|pid| pid.parse().ok());
        if writer.is_some_and(|pid| pid == getpid().as_raw() || !identity::exists(pid)) {
            remove(directory, name.as_str())?;
        }
    }
    Ok(())
}

fn remove<P: ?Sized + NixPath>(directory: &OwnedFd, name: &P) -> nix::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        done => done.map(|()| flush(directory)),
    }
}

fn names(directory: &OwnedFd) -> nix::Result<Vec<String>> {
    let mut listing = Dir::from_fd(openat(directory, ".", DIRECTORY, Mode::empty())?)?;
    listing.iter().map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The names of the records whose pid is wanted. Long ones come first: a record that gives up its long name for the
/// ordinary one meanwhile has either when it is looked for.
fn record_names(processes: &OwnedFd, is_wanted: impl Fn(i32) -> bool) -> nix::Result<Vec<String>> {
    let mut names = names(processes)?;
    names.retain(|name| name::pid(name).is_some_and(&is_wanted));
    names.sort_by_key(|name| !name.contains('-'));
    Ok(names)
}

fn entry(processes: &OwnedFd, name: String) -> Option<Entry> {
    let record = read_record(processes, &name).transpose()?;
    Some(Entry { pid: name::pid(&name)?, record, written: written(processes, &name), name })
}

#[allow(clippy::useless_conversion)] // of types that differ between systems
fn place(stat: &FileStat) -> (u64, u64) {
    (u64::try_from(stat.st_dev).unwrap_or_default(), u64::try_from(stat.st_ino).unwrap_or_default())
}

/// `Ok(None)`: it has gone meanwhile.
fn read_record(processes: &impl AsFd, name: &str) -> Result<Option<Record>, String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(processes, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err("it is a symbolic link".to_owned()),
        Err(errno) => return Err(errno.desc().to_owned()),
    };
    let Some(stat) = fstat(&file).ok().filter(is_regular) else { return Err("it is not a file".to_owned()) };
    // With room for one byte more it is read at once, and its end is seen.
    let size = u64::try_from(stat.st_size).unwrap_or_default().min(RECORD_LIMIT) + 1;
    let mut json = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    File::from(file).take(RECORD_LIMIT).read_to_end(&mut json).map_err(|error| error.to_string())?;
    let record = Record::parse(&json)?;
    if !name::is_of(name, &record.identity) {
        return Err(format!("it speaks of process {}", record.identity.pid));
    }
    Ok(Some(record))
}

fn written(processes: &impl AsFd, name: &str) -> Option<SystemTime> {
    let stat = fstatat(processes, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(stat.st_mtime).ok()?))
}

fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
