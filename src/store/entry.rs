//! One file in `processes`: the record in it, or why it cannot be read.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};

use super::files::{is_regular, names};
use super::record::{Record, Unreadable};
use super::record_name;
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence};
use crate::model::state::State;
use crate::sys::identity::{self, Identity};

/// Far more than a record with the longest messages needs; it limits the cost of each hostile one.
const RECORD_LIMIT: u64 = 256 * 1024;

/// A file in `processes`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name of the file.
    pub(super) name: String,
    /// The pid, from the name.
    pub pid: i32,
    /// The record, or why it cannot be read.
    pub record: Result<Record, String>,
    /// When it was written, according to the file system.
    pub written: Option<SystemTime>,
}

impl Entry {
    /// The input of the probes.
    #[must_use]
    pub fn facts(&self) -> Facts {
        match &self.record {
            Ok(record) => record.facts(),
            Err(reason) => {
                let presence = match () {
                    () if !record_name::is_of(&self.name, &Identity { pid: self.pid, ..Identity::own() }) => {
                        Presence::Elsewhere
                    }
                    () if self.may_be_of_the_living() => Presence::Here,
                    () => Presence::Gone,
                };
                Facts::unknown(self.pid, presence, reason.clone())
            }
        }
    }

    /// The input of the sentinels, which cover all containers: a Sidekiq of another one counts as present if it lives
    /// beside the `own` process.
    #[must_use]
    pub fn facts_beside(&self, own: &Record) -> Facts {
        let facts = self.facts();
        if self.is_foreign(own) { Facts { presence: Presence::Here, ..facts } } else { facts }
    }

    /// An unreadable record has no start time, so the pid in its name may be another process's by now. A Sidekiq
    /// writes its record at every heartbeat: one that was last written before the longest time without a heartbeat
    /// belongs to no live process.
    fn may_be_of_the_living(&self) -> bool {
        let age = self.written.and_then(|written| written.elapsed().ok());
        identity::exists(self.pid) && age.is_none_or(|age| age <= MAX_BEAT_AGE)
    }

    /// Whether the process has ended, or had its last heartbeat long ago in another container.
    pub(super) fn is_left_over(&self) -> bool {
        match (self.facts().presence, &self.record) {
            (Presence::Here, _) => false,
            (Presence::Elsewhere, Ok(record)) => record.state == State::Stopped || record.silence() > MAX_BEAT_AGE,
            _ => true,
        }
    }

    /// Whether it is the record of that process, or is in its place.
    pub(super) fn is_of(&self, identity: &Identity) -> bool {
        match &self.record {
            Ok(record) => record.identity.pid == identity.pid && record.identity.is_of_same_place(identity),
            Err(_) => record_name::is_of(&self.name, identity),
        }
    }

    /// Whether it is the record of a Sidekiq of another container or machine that has had a heartbeat since the `own`
    /// process started: that one lives beside this one, and is not what a killed container has left.
    pub(super) fn is_foreign(&self, own: &Record) -> bool {
        let began = own.timings.get(&State::Booting.to_string());
        let has_beaten = |record: &Record| record.beat.as_ref() > began && began.is_some();
        self.facts().presence == Presence::Elsewhere
            && !self.is_left_over()
            && self.record.as_ref().is_ok_and(has_beaten)
    }
}

/// The names of the records with a matching pid. Long ones come first: if a record changes from its long name to the
/// ordinary one meanwhile, one of them is found.
pub(super) fn record_names(processes: &OwnedFd, is_wanted: impl Fn(i32) -> bool) -> nix::Result<Vec<String>> {
    let mut names = names(processes)?;
    names.retain(|name| record_name::pid(name).is_some_and(&is_wanted));
    names.sort_by_key(|name| !name.contains('-'));
    Ok(names)
}

pub(super) fn entry(processes: &OwnedFd, name: String) -> Option<Entry> {
    let record = read_record(processes, &name).transpose()?.map_err(|error| error.to_string());
    Some(Entry { pid: record_name::pid(&name)?, record, written: written(processes, &name), name })
}

/// `Ok(None)`: it is gone meanwhile.
pub(super) fn read_record(processes: &impl AsFd, name: &str) -> Result<Option<Record>, Unreadable> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(processes, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err(Unreadable::Symlink),
        Err(errno) => return Err(errno.into()),
    };
    let Some(stat) = fstat(&file).ok().filter(is_regular) else { return Err(Unreadable::NotAFile) };
    // With room for one byte more, a single read reaches its end.
    let size = u64::try_from(stat.st_size).unwrap_or_default().min(RECORD_LIMIT) + 1;
    let mut json = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    File::from(file).take(RECORD_LIMIT).read_to_end(&mut json)?;
    let record = Record::parse(&json)?;
    if !record_name::is_of(name, &record.identity) {
        return Err(Unreadable::OfAnother(record.identity.pid));
    }
    Ok(Some(record))
}

pub(super) fn written(processes: &impl AsFd, name: &str) -> Option<SystemTime> {
    let stat = fstatat(processes, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(stat.st_mtime).ok()?))
}
