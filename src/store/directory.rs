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

use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::openat;
use nix::sys::stat::{Mode, fstat};

use super::entry::{Entry, entry, record_names};
use super::error::Error;
use super::files::{DIRECTORY, device_and_inode, not_opened, open_directory};
use crate::model::probe::Probe;

/// Where the directory is when nobody says otherwise, below the application's root.
pub const DEFAULT: &str = "tmp/sidekiq";

pub(super) const PROCESSES: &str = "processes";

/// A lifecycle directory, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    pub(super) path: PathBuf,
    pub(super) ready_file: Option<PathBuf>,
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
        Ok(Processes { place: device_and_inode(&stat), descriptor })
    }

    pub(super) fn open_processes(&self, top: &OwnedFd) -> Result<OwnedFd, Error> {
        openat(top, PROCESSES, DIRECTORY, Mode::empty()).map_err(|errno| not_opened(&self.path.join(PROCESSES), errno))
    }

    /// All entries; calls `between` after each that is read, for there may be many.
    pub(super) fn entries(&self, processes: &OwnedFd, between: &dyn Fn()) -> Result<Vec<Entry>, Error> {
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
    pub(super) descriptor: OwnedFd,
    /// Device and inode.
    pub(super) place: (u64, u64),
}

impl Processes {
    /// What processes with this pid have registered: one of each PID namespace that uses the directory.
    #[must_use]
    pub fn entries_of(&self, pid: i32) -> Vec<Entry> {
        let names = record_names(&self.descriptor, |its| its == pid).unwrap_or_default();
        names.into_iter().filter_map(|name| entry(&self.descriptor, name)).collect()
    }

    /// Whether the descriptor still is what it was: in somebody else's process, others may close what is not theirs.
    pub(super) fn is_sound(&self) -> bool {
        fstat(&self.descriptor).is_ok_and(|stat| device_and_inode(&stat) == self.place)
    }

    /// Leaves the descriptor open: its number is somebody else's by now, and not ours to close.
    pub(super) fn forget(self) {
        let _ = self.descriptor.into_raw_fd();
    }
}
