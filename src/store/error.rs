//! The errors of a lifecycle directory.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;
use thiserror::Error;

/// What is wrong with a lifecycle directory: what, where, and what to do.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such directory.
    #[error("{0} does not exist: no Sidekiq has registered there")]
    Missing(PathBuf),
    /// It is a symbolic link.
    #[error("{0} is a symbolic link, which is not followed here; set the directory to the link's target")]
    Symlink(PathBuf),
    /// It is something else.
    #[error("{0} is not a directory; remove it or set another directory")]
    NotADirectory(PathBuf),
    /// The process may not use it.
    #[error("{path} is not accessible to uid {uid} ({errno}); give that user write access or set another directory", errno = .errno.desc())]
    Forbidden {
        /// The path.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// The system's error.
        errno: Errno,
    },
    /// The process may not read it.
    #[error("{path} is not accessible to uid {uid} ({errno}); run this as a user who may read it, or as root", errno = .errno.desc())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// The system's error.
        errno: Errno,
    },
    /// The file system is read-only.
    #[error("{0} is on a read-only file system; mount a writable volume there or set another directory")]
    ReadOnly(PathBuf),
    /// No space is left.
    #[error("{0} is on a full file system; make room there or set another directory")]
    Full(PathBuf),
    /// The place of the ready file has a file that this gem did not write.
    #[error("{0} already exists and is not a ready file of sidekiq_lifecycle; move it away or set another ready_file")]
    NotOurs(PathBuf),
    /// The disk does not answer.
    #[error("{0} does not answer, so its contents are out of date; check its disk or mount")]
    Late(PathBuf),
    /// Any other error.
    #[error("{path}: {errno}", errno = .errno.desc())]
    Other {
        /// The path.
        path: PathBuf,
        /// The system's error.
        errno: Errno,
    },
}

impl Error {
    pub(crate) fn new(path: &Path, errno: Errno) -> Self {
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

    /// The same error for a reader, which does not need write access.
    pub(super) fn of_a_reader(self) -> Self {
        match self {
            Self::Forbidden { path, uid, errno } => Self::Unreadable { path, uid, errno },
            other => other,
        }
    }

    /// Whether the process or the system has run out of descriptors.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, Self::Other { errno: Errno::EMFILE | Errno::ENFILE, .. })
    }
}
