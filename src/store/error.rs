//! What can be wrong with a lifecycle directory.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;
use thiserror::Error;

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
    pub(super) fn new(path: &Path, errno: Errno) -> Self {
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
    pub(super) fn of_a_reader(self) -> Self {
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
