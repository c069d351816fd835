//! Records and sentinels are published and withdrawn; what they look like on disk.

use super::*;

#[test]
fn a_reader_never_sees_half_a_record() {
    let place = Place::new();
    let mut records = [own(State::Running), own(State::Quiet)];
    records[1].about.tag = Some("x".repeat(200_000));
    place.publish(&records[0]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = [0; 2];
            while !done.load(SeqCst) {
                let entries = place.directory.read().unwrap();
                assert_eq!(entries.len(), 1);
                let record = entries[0].record.as_ref().unwrap();
                seen[usize::from(record.state == State::Quiet)] += 1;
                assert_eq!(record.about.tag.is_some(), record.state == State::Quiet);
            }
            seen
        });
        for round in 0..400 {
            let durability = if round % 50 == 0 { Durability::Flushed } else { Durability::Whole };
            place.open().publish_record(&records[round % 2], durability).unwrap();
        }
        done.store(true, SeqCst);
        let seen = reader.join().unwrap();
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    });
    assert_eq!(fs::read_dir(place.path("sidekiq/processes")).unwrap().count(), 1, "nothing is left aside");
}

#[test]
fn the_sentinels_follow_the_records() {
    let place = Place::new();
    let drained = {
        let mut record = own(State::Quiet);
        record.mark_drained();
        record
    };
    for (record, ready, is_drained) in [
        (own(State::Booting), false, false),
        (own(State::Running), true, false),
        (own(State::Quiet), false, false),
        (drained, false, true),
        (own(State::Stopped), false, false),
    ] {
        place.publish(&record);
        place.sync_sentinels(&record).unwrap();
        assert_eq!(place.ready().exists(), ready, "{}", record.state);
        assert_eq!(place.path("sidekiq/drained").exists(), is_drained, "{}", record.state);
    }
}

#[test]
fn no_process_hides_or_fakes_anothers_readiness() {
    let place = Place::new();
    let running = own(State::Running);
    let neighbour = Living::new();
    for (record, ready) in [
        (gone(State::Quiet), true),
        (gone(State::Running), true),
        // It lives, and its pid was another's: the start time shows that.
        (of(neighbour.pid(), State::Quiet), true),
    ] {
        place.publish(&record);
        place.sync_sentinels(&running).unwrap();
        assert_eq!(place.ready().exists(), ready, "{record:?}");
        place.open().withdraw_record(&record.identity).unwrap();
    }
    // The same with a record without a start time, as without /proc: its process lives.
    let mut quiet = of(neighbour.pid(), State::Quiet);
    quiet.identity.start_time = None;
    place.publish(&quiet);
    place.sync_sentinels(&running).unwrap();
    assert!(!place.ready().exists());
    drop(neighbour);
    place.sync_sentinels(&running).unwrap();
    assert!(place.ready().exists(), "once it is gone it hides nothing");

    place.publish(&gone(State::Running));
    place.sync_sentinels(&own(State::Booting)).unwrap();
    assert!(!place.ready().exists(), "a dead one fakes nothing");
}

#[test]
fn a_process_that_stops_being_ready_meanwhile_gets_no_sentinel() {
    let place = Place::new();
    let asked = std::cell::Cell::new(0);
    // Running when first asked, quiet once the temporary file has been written.
    let changing = || {
        asked.set(asked.get() + 1);
        Some(own(if asked.get() == 1 { State::Running } else { State::Quiet }))
    };
    place.open().sync_sentinels(changing).unwrap();
    assert!(!place.ready().exists());
    assert_eq!(place.all(), ["sidekiq", "sidekiq/processes"], "nothing is left aside");

    // It exists, is withdrawn while the records are read, and stays away: the withdrawal has the last word.
    place.sync_sentinels(&own(State::Running)).unwrap();
    let withdrawing = || {
        place.open().withdraw_ready().unwrap();
        Some(own(State::Running))
    };
    place.open().sync_sentinels(withdrawing).unwrap();
    assert!(!place.ready().exists());
}

const READY_TREE: [(&str, u32); 4] =
    [("sidekiq", 0o755), ("sidekiq/processes", 0o755), ("sidekiq/ready", 0o644), ("pids", 0o755)];

fn modes(umask: u32) {
    let place = Place::new();
    let running = own(State::Running);
    place.publish(&running);
    place.sync_sentinels(&running).unwrap();
    let elsewhere = Directory::new(place.directory.path(), Some(&place.path("pids/started")));
    elsewhere.open().unwrap().sync_sentinels(|| Some(running.clone())).unwrap();
    let record = format!("sidekiq/processes/{}", running.identity.pid);
    for (name, mode) in READY_TREE.into_iter().chain([(record.as_str(), 0o644), ("pids/started", 0o644)]) {
        let found = fs::symlink_metadata(place.path(name)).unwrap().mode() & 0o7777;
        assert_eq!(found, mode & !umask, "{name}: {found:o}");
    }
}

#[test]
fn all_may_read_under_the_usual_umask() {
    if within("publishing::all_may_read_under_the_usual_umask", "true", "umask 022; exec \"$@\"") {
        modes(0o022);
    }
}

#[test]
fn a_strict_umask_is_respected() {
    if within("publishing::a_strict_umask_is_respected", "true", "umask 077; exec \"$@\"") {
        modes(0o077);
    }
}
