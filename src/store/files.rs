//! Files in a lifecycle directory: whole or not at all, through a descriptor, without following symbolic links.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, getpid, unlinkat};

use super::error::Error;
use crate::sys::identity;

pub(super) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The mode of a file that everyone may read, less the umask.
pub(super) const PUBLIC: Mode = Mode::from_bits_truncate(0o644);
/// The mode of a file that holds the arguments of jobs.
pub(super) const PRIVATE: Mode = Mode::from_bits_truncate(0o600);

/// Far more than the largest file of this gem has; it limits what a hostile one costs.
const SIZE_LIMIT: u64 = 512 * 1024 * 1024;

pub(super) const HALF_WRITTEN: &str = ".half-written";

/// Whether a write must survive a power failure (a change of state) or only be whole (a heartbeat).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Whole, but the system decides when to write it out.
    Whole,
    /// Flushed to the disk before it becomes visible.
    Flushed,
}

/// Checked just before a sentinel is created: whether it still holds for the calling process. The disk may have
/// delayed the write, and a signal may have arrived meanwhile.
pub(super) type Still<'a> = &'a dyn Fn() -> bool;

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    // "." gives an empty path a meaning.
    let name = if path.components().next().is_none() { Path::new(".") } else { path };
    nix::fcntl::open(name, DIRECTORY, Mode::empty()).map_err(|errno| not_opened(path, errno))
}

/// With `O_DIRECTORY | O_NOFOLLOW` Linux reports ENOTDIR for a symbolic link too (`open(2)`), which would make people
/// look for a file. And ENOTDIR may also come from a file further up in the path.
pub(super) fn not_opened(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::ENOTDIR | Errno::ELOOP if path.is_symlink() => Error::Symlink(path.to_owned()),
        Errno::ENOTDIR | Errno::EEXIST => {
            let culprit = path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
            Error::NotADirectory(culprit.unwrap_or(path).to_owned())
        }
        errno => Error::new(path, errno),
    }
}

/// The directory of a file, and its name there. Here links are followed.
pub(super) fn open_parent(file: &Path) -> nix::Result<(OwnedFd, &OsStr)> {
    let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return Err(Errno::EISDIR) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok((nix::fcntl::open(parent, flags, Mode::empty())?, name))
}

pub(super) fn publish<P: ?Sized + NixPath>(
    directory: &OwnedFd,
    name: &P,
    contents: &[u8],
    mode: Mode,
    durability: Durability,
    still: Still<'_>,
) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // tempfile generates the name; the root it is given is never used, because the descriptor determines the place.
    let (mut file, aside) = tempfile::Builder::new()
        .prefix(&half_written_prefix(getpid().as_raw()))
        .suffix(HALF_WRITTEN)
        .make_in("/", |path| {
            let aside = path.file_name().unwrap_or_default();
            Ok(File::from(openat(directory, aside, flags, mode)?))
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

/// Overwrites a file of this gem, in a single write and without needing more room: a shorter text is padded with
/// spaces.
pub(super) fn overwrite(directory: &OwnedFd, name: &str, mut contents: Vec<u8>) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    // A file with a second name would be written outside of the directory as well.
    if !is_regular(&stat) || stat.st_nlink != 1 || stat.st_uid != geteuid().as_raw() {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(stat.st_size).unwrap_or_default();
    contents.resize(contents.len().max(size), b' ');
    File::from(file).write_all_at(&contents, 0).map_err(|error| errno(&error))
}

/// Makes changes in a directory survive a power failure, as far as the file system supports that; some do not
/// (`fsync(2)`: EINVAL), which undoes nothing.
pub(super) fn flush(directory: &OwnedFd) {
    let _ = fsync(directory);
}

pub(super) fn half_written_prefix(pid: i32) -> String {
    format!(".{pid}.")
}

/// Removes files of processes that were killed while they wrote.
pub(super) fn remove_half_written(directory: &OwnedFd) -> nix::Result<()> {
    for name in names(directory)? {
        let writer = name.strip_suffix(HALF_WRITTEN).and_then(|rest| rest.strip_prefix('.')?.split('.').next());
        let writer = writer.and_then(|pid| pid.parse().ok());
        if writer.is_some_and(|pid| pid == getpid().as_raw() || !identity::exists(pid)) {
            remove(directory, name.as_str())?;
        }
    }
    Ok(())
}

pub(super) fn remove<P: ?Sized + NixPath>(directory: &OwnedFd, name: &P) -> nix::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        done => done.map(|()| flush(directory)),
    }
}

pub(super) fn names(directory: &OwnedFd) -> nix::Result<Vec<String>> {
    let mut listing = Dir::from_fd(openat(directory, ".", DIRECTORY, Mode::empty())?)?;
    listing.iter().map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Why a file with the arguments of jobs is not read. `only_own`: nor is another user's.
pub(super) fn distrust(stat: &FileStat, only_own: bool) -> Option<String> {
    match () {
        () if !is_regular(stat) => Some("it is not a file".to_owned()),
        () if only_own && stat.st_uid != geteuid().as_raw() => Some(format!("it belongs to uid {}", stat.st_uid)),
        () if stat.st_nlink > 1 => Some("it has a second name".to_owned()),
        () if u64::try_from(stat.st_size).unwrap_or_default() > SIZE_LIMIT => Some("it is too large".to_owned()),
        () => None,
    }
}

pub(super) fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

#[allow(clippy::useless_conversion)] // of types that differ between systems
pub(super) fn device_and_inode(stat: &FileStat) -> (u64, u64) {
    (u64::try_from(stat.st_dev).unwrap_or_default(), u64::try_from(stat.st_ino).unwrap_or_default())
}

pub(super) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
