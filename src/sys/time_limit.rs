//! Calls that may hang on a disk, with a time limit.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use crate::sys::signals::disposition;

/// How long one of Sidekiq's threads waits for a disk.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// Does work that may hang on a thread of its own, which receives no signals. `None`: it was not done in time. It is
/// not interrupted, and may still complete. If no further thread can be started, the calling one does the work.
pub fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let shared = Arc::clone(&work);
    let run = move || {
        if let Some(work) = take(&shared) {
            let _ = sender.send(work());
        }
    };
    match disposition::spawn("lifecycle", run) {
        Ok(_) => receiver.recv_timeout(PATIENCE).ok(),
        Err(_) => take(&work).map(|work| work()),
    }
}
