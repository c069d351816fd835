//! A lifecycle directory, opened for writing: records, sentinels, and what dead processes left.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::directory::{Directory, PROCESSES};
use super::entry::{Entry, entry};
use super::error::Error;
use super::files::{
    DIRECTORY, Durability, PUBLIC, Still, errno, is_regular, open_directory, open_parent, overwrite, publish, remove,
    remove_half_written,
};
use super::record::Record;
use super::record_name;
use super::sentinel::{create_elsewhere, is_ours, publish_sentinel, remove_elsewhere, sentinel_error};
use crate::model::probe::{Facts, Presence, Probe, sentinel};
use crate::sys::identity::Identity;

/// A lifecycle directory, opened for writing.
pub struct OpenDirectory<'a> {
    pub(super) directory: &'a Directory,
    pub(super) top: OwnedFd,
    pub(super) processes: OwnedFd,
    is_urgent: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for OpenDirectory<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("OpenDirectory").field(&self.directory).finish()
    }
}

impl Directory {
    /// Opens the directory; creates it if necessary (mode 0755 less the umask).
    ///
    /// # Errors
    /// It can be neither opened nor created.
    pub fn open(&self) -> Result<OpenDirectory<'_>, Error> {
        self.open_with(&|| false)
    }

    /// The same for a writer that can be interrupted: while it reads others' records or waits for the lock, it polls
    /// `is_urgent`, and withdraws the ready file when that returns true.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_with<'a>(&'a self, is_urgent: &'a dyn Fn() -> bool) -> Result<OpenDirectory<'a>, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&self.path);
        let top = match (open_directory(&self.path), made) {
            // The error of the creation says more than that the directory does not exist.
            (Err(Error::Missing(path)), Err(error)) => return Err(Error::new(&path, errno(&error))),
            (top, _) => top?,
        };
        match mkdirat(&top, PROCESSES, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::new(&self.path, errno)),
        }
        let processes = self.open_processes(&top)?;
        Ok(OpenDirectory { directory: self, top, processes, is_urgent })
    }
}

impl OpenDirectory<'_> {
    /// Excludes other writers until the guard is dropped, so that no sentinel is created from records that change
    /// meanwhile. It waits a fifth of a second for a writer that was stopped in the middle, not longer; the worst
    /// consequence is a sentinel that is wrong until the next heartbeat.
    ///
    /// `flock(2)` on the directory itself, released explicitly when the guard is dropped: a child forked in between
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
            self.withdraw_if_urgent();
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Writes a process's record. Without room for it, overwrites the old one, because a health check must not take a
    /// full disk for a dead process; if that fails too, removes it: no record is better than a false one.
    ///
    /// # Errors
    /// It could not be written.
    pub fn publish_record(&self, record: &Record, durability: Durability) -> Result<(), Error> {
        let path = || self.directory.path.join(PROCESSES);
        let json = record.to_json().map_err(|_| Error::Other { path: path(), errno: Errno::EINVAL })?;
        let (name, _lock) = self.name_of(&record.identity);
        let published = publish(&self.processes, name.as_str(), json.as_bytes(), PUBLIC, durability, &|| true);
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
        match record_name::long(&record.identity) {
            // From when another record had the ordinary name.
            Some(long) if long != name => {
                remove(&self.processes, long.as_str()).map_err(|errno| Error::new(&path(), errno))
            }
            _ => Ok(()),
        }
    }

    /// The name for a process's record. While the ordinary name is free, no other process may take it until the guard
    /// is dropped.
    fn name_of(&self, identity: &Identity) -> (String, Option<Flock<OwnedFd>>) {
        let short = record_name::short(identity);
        let Some(long) = record_name::long(identity) else { return (short, None) };
        let entry_now = || entry(&self.processes, short.clone());
        let child_in_background = |entry: &Option<Entry>| entry.as_ref().is_none_or(Entry::is_left_over);
        match entry_now() {
            Some(entry) if entry.is_of(identity) => (short, None),
            entry if child_in_background(&entry) => {
                let lock = self.lock();
                if child_in_background(&entry_now()) { (short, lock) } else { (long, None) }
            }
            _ => (long, None),
        }
    }

    /// The pid of a Sidekiq of another container or machine that also uses this directory: it has had a heartbeat
    /// since the `own` process started.
    #[must_use]
    pub fn foreign_process(&self, own: &Record) -> Option<i32> {
        let entries = self.entries().unwrap_or_default();
        entries.iter().find(|entry| entry.is_foreign(own)).map(|entry| entry.pid)
    }

    /// Removes one process's record.
    ///
    /// # Errors
    /// It exists and cannot be removed.
    pub fn withdraw_record(&self, identity: &Identity) -> Result<(), Error> {
        let names = std::iter::once(record_name::short(identity)).chain(record_name::long(identity));
        let is_its_own = |name: &String| entry(&self.processes, name.clone()).is_none_or(|entry| entry.is_of(identity));
        names.filter(is_its_own).try_for_each(|name| self.remove_record(&name))
    }

    fn remove_record(&self, name: &str) -> Result<(), Error> {
        remove(&self.processes, name).map_err(|errno| Error::new(&self.directory.path.join(PROCESSES), errno))
    }

    /// Removes the ready file, whatever the other processes' states are: the first thing to do when this process
    /// stops being ready.
    ///
    /// # Errors
    /// It exists and cannot be removed, or this gem did not write it.
    pub fn withdraw_ready(&self) -> Result<(), Error> {
        self.remove_sentinel(Probe::Ready)
    }

    /// Creates and removes the sentinels, according to the records. `own` returns the calling process's current
    /// record.
    ///
    /// # Errors
    /// The records cannot be read, or a sentinel cannot be changed.
    pub fn sync_sentinels(&self, own: impl Fn() -> Option<Record>) -> Result<(), Error> {
        // Called before the records are read: a process that stops being ready withdraws the file before anything
        // else, so a file that disappears meanwhile must not be created again.
        let stands = self.ready_exists();
        let own_now = || own().map(|record| record.facts_with(Presence::Here));
        let facts = self.facts(own())?;
        let settle = |probe| {
            if !sentinel(&facts, probe) {
                return self.remove_sentinel(probe);
            }
            self.create_sentinel(probe, &|| own_now().is_none_or(|own| sentinel(&[own], probe)))
        };
        let ready = if stands && sentinel(&facts, Probe::Ready) { Ok(()) } else { settle(Probe::Ready) };
        ready.and(settle(Probe::Drained))
    }

    /// The seconds that hooks took at the last stop of each registered process, if recorded.
    #[must_use]
    pub fn hooks(&self) -> Vec<f64> {
        let entries = self.entries().unwrap_or_default();
        entries.into_iter().filter_map(|entry| entry.record.ok()?.hooks).collect()
    }

    /// Removes what ended processes left: records, half-written files, ready files elsewhere, and the sentinels if
    /// they no longer hold. Creates nothing.
    ///
    /// # Errors
    /// Something could not be removed; the first such error is returned, and everything else is removed.
    pub fn sweep(&self) -> Result<(), Error> {
        let left_over = self.sweep_records()?;
        let half_written = [&self.top, &self.processes]
            .map(|directory| remove_half_written(directory).map_err(|errno| Error::new(&self.directory.path, errno)));
        let mut done: Vec<Result<(), Error>> = left_over.into_iter().chain(half_written).collect();
        done.push(self.sweep_stop_requests());
        if self.directory.ready_file.is_some() {
            // From before the application chose another place for it.
            let name = Probe::Ready.to_string();
            let path = self.directory.path.join(&name);
            done.push(remove(&self.top, name.as_str()).map_err(|errno| sentinel_error(&path, errno)));
        }
        let facts = self.facts(None)?;
        let untrue = [Probe::Ready, Probe::Drained].into_iter().filter(|probe| !sentinel(&facts, *probe));
        done.extend(untrue.map(|probe| self.remove_sentinel(probe)));
        done.into_iter().collect()
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        self.directory.entries(&self.processes, &|| self.withdraw_if_urgent())
    }

    /// Does at once what cannot wait.
    fn withdraw_if_urgent(&self) {
        if (self.is_urgent)() {
            // If it fails, it fails again when the sentinels are synced, and is reported then.
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
            // A record's path of a file elsewhere is trusted only if nobody else can have written the record.
            if let Some(file) = elsewhere.filter(|_| own) {
                let _ = remove_elsewhere(Path::new(file));
            }
            self.remove_record(&entry.name)
        };
        Ok(entries.iter().filter(|entry| entry.is_left_over()).map(clear).collect())
    }

    /// The input of the probes, for every process of the directory; `own` replaces the calling process's record.
    /// Processes in other containers that live beside it are present as well: the sentinels cover all.
    fn facts(&self, own: Option<Record>) -> Result<Vec<Facts>, Error> {
        let entries = self.entries()?;
        let is_others = |entry: &&Entry| own.as_ref().is_none_or(|own| !entry.is_of(&own.identity));
        let facts = |entry: &Entry| own.as_ref().map_or_else(|| entry.facts(), |own| entry.facts_beside(own));
        let others: Vec<Facts> = entries.iter().filter(is_others).map(facts).collect();
        Ok(others.into_iter().chain(own.map(|own| own.facts_with(Presence::Here))).collect())
    }

    fn ready_exists(&self) -> bool {
        match &self.directory.ready_file {
            Some(file) => open_parent(file).is_ok_and(|(parent, name)| is_ours(&parent, name) == Ok(true)),
            None => fstatat(&self.top, Probe::Ready.to_string().as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| is_regular(&stat)),
        }
    }

    fn create_sentinel(&self, probe: Probe, still: Still<'_>) -> Result<(), Error> {
        if let (Probe::Ready, Some(file)) = (probe, &self.directory.ready_file) {
            return create_elsewhere(file, still);
        }
        let name = probe.to_string();
        match fstatat(&self.top, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_regular(&stat) => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => publish_sentinel(&self.top, name.as_str(), probe, still),
            Err(errno) => Err(errno),
        }
        .map_err(|errno| sentinel_error(&self.directory.path.join(&name), errno))
    }

    fn remove_sentinel(&self, probe: Probe) -> Result<(), Error> {
        if let (Probe::Ready, Some(file)) = (probe, &self.directory.ready_file) {
            return remove_elsewhere(file);
        }
        let name = probe.to_string();
        match fstatat(&self.top, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => remove(&self.top, name.as_str()),
            // Not left to unlink: a read-only file system reports EROFS for a file that does not exist.
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
        .map_err(|errno| sentinel_error(&self.directory.path.join(&name), errno))
    }
}
