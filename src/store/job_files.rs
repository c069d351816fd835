//! Jobs for which a flight recorder has no room: `recorders/PID-ID.NUMBER`, a file for each, beside the recorder `PID-ID`.
//!
//! They belong to the recorder. Whoever has its name is their owner, and they are removed before it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::files::{Durability, PRIVATE, distrust, errno, names, publish};
use crate::model::recorder::{self, Contents, Entry, Job};

fn file_name(recorder: &str, number: u64) -> String {
    format!("{recorder}.{number}")
}

/// The recorder to which a file of that name belongs.
pub(super) fn recorder_of(name: &str) -> Option<&str> {
    let (recorder, number) = name.rsplit_once('.')?;
    number.parse::<u64>().ok().map(|_| recorder)
}

pub(super) fn write(
    recorders: &OwnedFd,
    recorder: &str,
    entry: &Entry,
    queue: &[u8],
    payload: &[u8],
) -> nix::Result<()> {
    let bytes = recorder::single(entry, queue, payload);
    publish(recorders, file_name(recorder, entry.number).as_str(), &bytes, PRIVATE, Durability::Whole, &|| true)
}

/// Removes the file of a job. After a crash of the machine it may be there again.
pub(super) fn remove(recorders: &OwnedFd, recorder: &str, number: u64) {
    let _ = unlinkat(recorders, file_name(recorder, number).as_str(), UnlinkatFlags::NoRemoveDir);
}

pub(super) fn remove_all(recorders: &OwnedFd, recorder: &str) -> nix::Result<()> {
    for name in names_of(recorders, recorder)? {
        match unlinkat(recorders, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            failed => return failed,
        }
    }
    Ok(())
}

/// Adds these jobs to what was read of their recorder. `only_own`: those of the calling user.
///
/// # Errors
/// One cannot be read now, and may be later. Nothing of the recorder is used then, because it is removed with all of them.
pub(super) fn add_to(contents: &mut Contents, recorders: &OwnedFd, recorder: &str, only_own: bool) -> nix::Result<()> {
    for name in names_of(recorders, recorder)? {
        match read(recorders, &name, only_own) {
            Ok(Some(job)) => contents.jobs.push(job),
            Err(Errno::ENOENT) => {}
            Ok(None) | Err(Errno::ELOOP) => contents.torn += 1,
            Err(errno) => return Err(errno),
        }
    }
    contents.jobs.sort_by_key(|job| job.entry.number);
    Ok(())
}

/// Whether the file is there and its recorder is not.
pub(super) fn is_orphan(recorders: &OwnedFd, name: &str) -> bool {
    let is_missing = |name: &str| fstatat(recorders, name, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT);
    recorder_of(name).is_some_and(|recorder| is_missing(recorder) && !is_missing(name))
}

fn names_of(recorders: &OwnedFd, recorder: &str) -> nix::Result<Vec<String>> {
    let mut found = names(recorders)?;
    found.retain(|name| recorder_of(name) == Some(recorder));
    Ok(found)
}

/// `None`: it is damaged, or nothing that this gem has written.
fn read(recorders: &OwnedFd, name: &str, only_own: bool) -> nix::Result<Option<Job>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(recorders, name, flags, Mode::empty())?);
    if distrust(&fstat(&file)?, only_own).is_some() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| errno(&error))?;
    Ok(recorder::parse_single(&bytes))
}
