//! The sentinels `ready` and `drained`, and the ready file in a place that the application chose.

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
use super::files::{Durability, PUBLIC, Still, errno, is_regular, not_opened, open_parent, publish, remove};
use crate::model::probe::Probe;

/// The start of every ready and drained file, which identifies this gem's.
const SIGNATURE: &str = "sidekiq_lifecycle";
/// The ready file in a place that the application chose. Links among its parents are the application's own
/// (`current/tmp/pids`); the file itself is not followed if it is a link, and not touched unless this gem wrote it.
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
        // A file that this gem did not write never reported readiness; there is nothing to remove.
        Ok((parent, name)) if is_ours(&parent, name) == Ok(true) => remove(&parent, name),
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    };
    taken_down.map_err(|errno| Error::new(file, errno))
}

/// A file of this gem starts with the signature. An empty one is taken over as well: an application's own `touch` at
/// `:startup` has left it.
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
    match publish(directory, name, format!("{SIGNATURE} {probe}\n").as_bytes(), PUBLIC, Durability::Flushed, still) {
        Err(Errno::ECANCELED) => Ok(()),
        published => published,
    }
}
