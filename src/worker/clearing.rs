//! Removes what dead processes left in a lifecycle directory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::model::hook_time::Hooks;
use crate::store::directory::Directory;
use crate::store::error::Error;
use crate::store::writing::OpenDirectory;
use crate::sys::time_limit::in_time;

/// Removes what dead processes left in a directory, before the application boots. A missing directory needs no
/// clearing; one that does not answer delays the boot only briefly.
///
/// # Errors
/// The directory cannot be read or cleared, or does not answer.
pub fn clear(path: &Path) -> Result<(), Error> {
    let directory = Directory::new(path, None);
    in_time(move || clear_now(&directory)).unwrap_or_else(|| Err(Error::Late(path.to_owned())))
}

/// The directory that was cleared before the process registered there, and the time that hooks took at earlier stops:
/// the records that held it are gone.
static CLEARED: Mutex<Option<(PathBuf, f64)>> = Mutex::new(None);

pub(super) fn cleared_hooks(directory: &Directory) -> Option<f64> {
    let cleared = CLEARED.lock().unwrap_or_else(PoisonError::into_inner);
    cleared.as_ref().filter(|(path, _)| path == directory.path()).map(|(_, seconds)| *seconds)
}

fn clear_now(directory: &Directory) -> Result<(), Error> {
    match directory.read() {
        Ok(_) => {
            let open = directory.open()?;
            let mut hooks = Hooks::default();
            open.hooks().into_iter().for_each(|seconds| hooks.remember(seconds));
            *CLEARED.lock().unwrap_or_else(PoisonError::into_inner) =
                hooks.to_record(Instant::now(), false).map(|seconds| (directory.path().to_owned(), seconds));
            sweep(&open)
        }
        Err(Error::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn sweep(open: &OpenDirectory<'_>) -> Result<(), Error> {
    let _lock = open.lock();
    open.sweep()
}
