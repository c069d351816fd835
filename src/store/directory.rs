//! The lifecycle directory: where processes record their state, for anyone to read.
//!
//! ```text
//! ready            exists exactly while every live Sidekiq of this directory is ready
//! drained          exists exactly while every live Sidekiq of this directory is drained
//! processes/PID    one status record a process; it has another [name] where containers share the directory
//! processes/PID-….stop-when-drained
//!                  a request that this process stops once it has drained
//! ```
//!
//! A file appears whole or not at all: it is written to a temporary file, flushed and renamed. Only if there is no
//! room for that, a record overwrites the old one. The directory may be in a place where another user can write. So
//! everything in it is accessed through a descriptor of the directory itself, no symbolic link is followed, and
//! nothing outside is touched (`openat(2)`, `O_NOFOLLOW`). The one exception is explicit: the ready file, if the
//! application chose a place of its own for it. It is replaced or removed only if this gem wrote it.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::openat;
use nix::sys::stat::{Mode, fstat};

use super::entry::{Entry, entry, record_names};
use super::error::Error;
use super::files::{DIRECTORY, device_and_inode, not_opened, open_directory};
use crate::model::probe::Probe;

/// The default directory, below the application's root.
pub const DEFAULT: &str = "tmp/sidekiq";

pub(super) const PROCESSES: &str = "processes";

/// A lifecycle directory, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    pub(super) path: PathBuf,
    pub(super) ready_file: Option<PathBuf>,
}

impl Directory {
    /// The directory at `path`; its ready file is its own `ready`, unless the application chose another place.
    #[must_use]
    pub fn new(path: &Path, ready_file: Option<&Path>) -> Self {
        // Without a trailing slash or dot, with which the system would follow a symbolic link.
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

    /// The ready file, if it is not the directory's own.
    #[must_use]
    pub fn ready_file(&self) -> Option<&Path> {
        self.ready_file.as_deref()
    }

    /// Every registered process, the one with the latest news last. Creates, changes and locks nothing.
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

    /// The records with this pid: one for each PID namespace that uses the directory.
    ///
    /// # Errors
    /// As [`Directory::read`].
    pub fn entries_of(&self, pid: i32) -> Result<Vec<Entry>, Error> {
        Ok(self.processes()?.entries_of(pid))
    }

    /// Opens `processes` for reading.
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

    /// All entries; calls `between` after each one, because there may be many.
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

/// A descriptor of `processes`. A registered process keeps one open, by which an observer finds its record
/// ([`crate::store::lookup`]). An observer keeps one in order to read a process's last record when the path to it is
/// gone.
#[derive(Debug)]
pub struct Processes {
    pub(super) descriptor: OwnedFd,
    /// Device and inode.
    pub(super) place: (u64, u64),
}

impl Processes {
    /// The records with this pid: one for each PID namespace that uses the directory.
    #[must_use]
    pub fn entries_of(&self, pid: i32) -> Vec<Entry> {
        let names = record_names(&self.descriptor, |its| its == pid).unwrap_or_default();
        names.into_iter().filter_map(|name| entry(&self.descriptor, name)).collect()
    }

    /// Whether the descriptor is still the same file: other code in the process may close descriptors that are not
    /// its own.
    pub(super) fn is_sound(&self) -> bool {
        fstat(&self.descriptor).is_ok_and(|stat| device_and_inode(&stat) == self.place)
    }

    /// Leaves the descriptor open: its number is another file's by now, and not this gem's to close.
    pub(super) fn forget(self) {
        let _ = self.descriptor.into_raw_fd();
    }
}
