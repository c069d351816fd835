//! The life of a process as the binding drives it: what several threads tell at once.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidekiq_lifecycle::model::state::State;
use sidekiq_lifecycle::store::directory::Directory;
use sidekiq_lifecycle::store::record::{About, Record};
use sidekiq_lifecycle::worker::lifecycle::Lifecycle;
use tempfile::TempDir;

/// A hook waits for the disk, but not for ever; so a test on a slow machine waits on.
fn eventually(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The observer's thread withdraws the ready file at once; a beat that has begun before must not put it up again, not
/// even for the moment until the record of the signal is written.
#[test]
fn ready_never_comes_back_after_a_signal_however_the_heart_beats() {
    for round in 0..150 {
        let home = TempDir::new().unwrap();
        let ready = home.path().join("ready");
        let lifecycle = Lifecycle::begin(Directory::new(home.path(), None), About::default());
        lifecycle.started();
        eventually(|| ready.exists());
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
        assert!(!came_back, "round {round}");
        eventually(|| !ready.exists());
    }
}

/// What the application does with its descriptors does not concern the writer's thread: what it keeps is in a table of its
/// own, where one thread finds it, by its name.
#[cfg(target_os = "linux")]
#[test]
fn the_record_is_found_by_the_writers_descriptor() {
    let home = TempDir::new().unwrap();
    let lifecycle = Lifecycle::begin(Directory::new(home.path(), None), About::default());
    lifecycle.started();
    let own = i32::try_from(std::process::id()).unwrap();
    let nowhere = Directory::new(&home.path().join("nowhere"), None);
    let found = || sidekiq_lifecycle::store::lookup::with_pid(own, &nowhere).and_then(|found| found.record.ok());
    eventually(|| found().is_some_and(|record| record.identity.pid == own));
}

/// Each hook has its effect on disk, and a lifecycle that is given up leaves nothing behind.
#[test]
fn each_hook_has_its_effect_on_disk() {
    let home = TempDir::new().unwrap();
    let directory = Directory::new(home.path(), None);
    let lifecycle = Lifecycle::begin(directory.clone(), About::default());
    let own = i32::try_from(std::process::id()).unwrap();
    let on_disk = || directory.entries_of(own).ok()?.pop()?.record.ok();
    let says = |is_so: fn(&Record) -> bool| on_disk().is_some_and(|record| is_so(&record));
    let there = |name: &str| home.path().join(name).exists();
    eventually(|| says(|record| record.state == State::Booting));
    lifecycle.started();
    eventually(|| says(|record| record.state == State::Running) && there("ready"));
    lifecycle.beat(3);
    eventually(|| says(|record| record.busy == 3));
    lifecycle.quieted();
    eventually(|| says(|record| record.state == State::Quiet) && !there("ready"));
    lifecycle.draining(1);
    eventually(|| says(|record| record.busy == 1));
    assert!(lifecycle.drained());
    eventually(|| says(|record| record.busy == 0) && there("drained"));
    lifecycle.stopping();
    eventually(|| says(|record| record.state == State::Stopping));
    lifecycle.ended(Some(0), None);
    eventually(|| says(|record| record.exit_status == Some(0)) && !there("drained"));
    lifecycle.retire();
    eventually(|| on_disk().is_none());
}
