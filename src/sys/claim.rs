//! A claim on a directory that several processes share: a flock(2) on it. Nothing is written, and the kernel releases
//! it when its holder dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::sys::time_limit::in_time;

/// The calling process's claim. No call waits for the disk or for another process: while one hangs, all others fail.
#[derive(Clone, Debug)]
pub struct Claim {
    path: PathBuf,
    held: Arc<Mutex<Option<Flock<File>>>>,
}

impl Claim {
    /// A claim on the directory at `path`, not taken yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), held: Arc::default() }
    }

    /// Takes the claim, together with others. `Some(false)`: somebody has it exclusively. `None`: it cannot be known
    /// (no such directory, a file system without locks, or one that hangs).
    #[must_use]
    pub fn take(&self) -> Option<bool> {
        self.lock(FlockArg::LockSharedNonblock)
    }

    /// Whether nobody else has a claim; if so, nobody can take one before this one is released. `None` as in
    /// [`Claim::take`].
    #[must_use]
    pub fn is_alone(&self) -> Option<bool> {
        self.lock(FlockArg::LockExclusiveNonblock)
    }

    /// Releases it explicitly, because a child forked meanwhile has the descriptor as well.
    pub fn leave(&self) {
        let held = Arc::clone(&self.held);
        let _ = in_time(move || held.try_lock().map(|mut held| drop(held.take())).is_ok());
    }

    fn lock(&self, how: FlockArg) -> Option<bool> {
        let Self { path, held } = self.clone();
        let lock = move || {
            let mut held = held.try_lock().ok()?;
            let locked = match held.as_ref() {
                Some(lock) => lock.relock(how),
                None => match Flock::lock(File::open(path).ok()?, how) {
                    Ok(lock) => {
                        *held = Some(lock);
                        Ok(())
                    }
                    Err((_, errno)) => Err(errno),
                },
            };
            match locked {
                Ok(()) => Some(true),
                Err(Errno::EAGAIN) => Some(false),
                Err(_) => None,
            }
        };
        in_time(lock).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_unless_held_exclusively() {
        let home = tempfile::TempDir::new().unwrap();
        let [one, other] = [(); 2].map(|()| Claim::new(home.path()));
        assert_eq!((one.take(), other.take(), one.is_alone()), (Some(true), Some(true), Some(false)));
        one.leave();
        assert_eq!((other.is_alone(), one.take()), (Some(true), Some(false)));
        other.leave();
        assert_eq!((one.take(), one.take()), (Some(true), Some(true)));
        let nowhere = Claim::new(&home.path().join("nowhere"));
        assert_eq!((nowhere.take(), nowhere.is_alone()), (None, None));
        nowhere.leave();
    }

    #[test]
    fn no_call_waits_while_another_hangs() {
        let home = tempfile::TempDir::new().unwrap();
        let claim = Claim::new(home.path());
        let hanging = claim.held.lock().unwrap();
        assert_eq!((claim.take(), claim.is_alone()), (None, None));
        claim.leave();
        drop(hanging);
        assert_eq!(claim.take(), Some(true));
    }
}
