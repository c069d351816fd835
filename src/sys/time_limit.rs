//! Not waiting for a disk.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use crate::sys::signals::disposition;

/// How long one of Sidekiq's threads waits for a disk.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// Does what may hang, on a thread of its own, which takes no signals. `None`: it was not done in time. It is not ended then,
/// and may still come to its end. Where there can be no further thread the calling one does it.
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
