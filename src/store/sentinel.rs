//! The sentinels `ready` and `drained`, and the ready file where the application chose another place for it.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};

use super::error::Error;
use super::files::{Durability, Still, errno, is_regular, not_opened, open_parent, publish, remove};
use crate::model::probe::Probe;

/// What every ready and drained file begins with; it tells ours from anybody else's.
const SIGNATURE: &str = "sidekiq_lifecycle";
/// The ready file in a place the application chose. Links among its parents are the application's own doing
/// (`current/tmp/pids`); the file itself is neither followed nor touched unless it is ours.
pub(super) fn create_elsewhere(file: &Path, still: Still<'_>) -> Result<(), Error> {
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

pub(super) fn remove_elsewhere(file: &Path) -> Result<(), Error> {
    let taken_down = match open_parent(file) {
        // What is not ours was never a promise of ours; there is nothing to take back.
        Ok((parent, name)) if is_ours(&parent, name) == Ok(true) => remove(&parent, name),
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    };
    taken_down.map_err(|errno| Error::new(file, errno))
}

/// A file of ours begins with the signature. An empty one is taken over as well: it is what a home-made
/// `touch` at `:startup` has left.
pub(super) fn is_ours(parent: &OwnedFd, name: &OsStr) -> nix::Result<bool> {
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

pub(super) fn sentinel_error(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::EISDIR | Errno::EEXIST | Errno::ENOTEMPTY => Error::NotOurs(path.to_owned()),
        errno => Error::new(path, errno),
    }
}

pub(super) fn publish_sentinel<P: ?Sized + NixPath>(
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
