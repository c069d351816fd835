//! The life of a process as the binding drives it: what several threads tell at once.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

use nix::sys::signal::Signal;
use sidekiq_lifecycle::edges::directory::Directory;
use sidekiq_lifecycle::edges::record::About;
use sidekiq_lifecycle::faces::lifecycle::Lifecycle;
use sidekiq_lifecycle::rules::state::State;
use tempfile::TempDir;

/// The observer's thread withdraws the ready file at once; a beat that has begun before must not put it up again, not
/// even for the moment until the record of the signal is written.
#[test]
fn ready_never_comes_back_after_a_signal_however_the_heart_beats() {
    for round in 0..150 {
        let home = TempDir::new().unwrap();
        let ready = home.path().join("ready");
        let lifecycle = Lifecycle::begin(Directory::new(home.path(), None), About::default(), None);
        lifecycle.started();
        assert!(ready.exists());
        let (beats, done) = (AtomicU32::new(0), AtomicBool::new(false));
        let came_back = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let (mut was_gone, mut came_back) = (false, false);
                while !done.load(SeqCst) {
                    let is_quiet = lifecycle.record().state == State::Quiet;
                    let is_there = ready.exists();
                    came_back |= was_gone && is_there;
                    was_gone |= is_quiet && !is_there;
                }
                came_back
            });
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    lifecycle.beat(1);
                    beats.fetch_add(1, SeqCst);
                }
            });
            let wait_for = |beat| {
                while beats.load(SeqCst) < beat {
                    thread::yield_now();
                }
            };
            wait_for(1 + round % 3);
            lifecycle.arrived(Signal::SIGTSTP);
            wait_for(beats.load(SeqCst) + 3);
            done.store(true, SeqCst);
            watcher.join().unwrap()
        });
        assert!(!came_back && !ready.exists(), "round {round}");
    }
}
