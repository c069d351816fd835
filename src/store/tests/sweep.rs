//! What dead processes left, and what is left alone.

use super::*;

#[test]
fn the_sweep_removes_files_of_ended_processes() {
    let place = Place::new();
    let neighbour = Living::new();
    let dead = gone(State::Running);
    let recycled = of(neighbour.pid(), State::Running);
    let stale_ready_file = place.path("pids/started");
    fs::create_dir(place.path("pids")).unwrap();
    fs::write(&stale_ready_file, "sidekiq_lifecycle ready\n").unwrap();
    let dead = Record { ready_file: Some(stale_ready_file.display().to_string()), ..dead };
    for record in [&dead, &recycled] {
        place.publish(record);
    }
    let nobodys = gone(State::Running).identity.pid;
    fs::write(place.record_file(nobodys), "{\"schema\":1").unwrap();
    let half_written = [format!(".{nobodys}.abc.half-written"), format!(".{}.abc.half-written", getpid().as_raw())];
    for name in &half_written {
        fs::write(place.path("sidekiq").join(name), "").unwrap();
        fs::write(place.path("sidekiq/processes").join(name), "").unwrap();
    }
    for name in ["ready", "drained"] {
        fs::write(place.path("sidekiq").join(name), "").unwrap();
    }
    place.open().sweep().unwrap();
    assert_eq!(place.all(), ["pids", "sidekiq", "sidekiq/processes"]);
}

#[test]
fn the_sweep_keeps_files_of_live_processes() {
    let place = Place::new();
    let neighbour = Living::new();
    let mut living = of(neighbour.pid(), State::Running);
    living.identity.start_time = None;
    living.ready_file = Some(place.path("started").display().to_string());
    place.publish(&living);
    fs::write(place.path("started"), "sidekiq_lifecycle ready\n").unwrap();
    fs::write(place.ready(), "sidekiq_lifecycle ready\n").unwrap();
    let half = format!("sidekiq/processes/.{}.abc.half-written", neighbour.pid());
    let foreign = ["sidekiq/notes", "sidekiq/.hidden", "sidekiq/processes/README", "sidekiq/.x.half-written"];
    for name in foreign.iter().copied().chain([half.as_str()]) {
        fs::write(place.path(name), "").unwrap();
    }
    let before = place.all();
    place.open().sweep().unwrap();
    assert_eq!(place.all(), before);
}

#[test]
fn the_sweep_creates_nothing() {
    let place = Place::new();
    place.publish(&own(State::Running));
    place.open().sweep().unwrap();
    assert!(!place.ready().exists());
}

#[test]
fn the_sweep_does_not_touch_a_foreign_file_that_a_record_names() {
    let place = Place::new();
    let precious = place.path("precious");
    fs::write(&precious, "precious").unwrap();
    place.publish(&Record { ready_file: Some(precious.display().to_string()), ..gone(State::Running) });
    place.open().sweep().unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn the_sweep_continues_after_a_file_that_it_cannot_remove() {
    let place = Place::new();
    let stuck = place.record_file(gone(State::Running).identity.pid);
    place.open();
    fs::create_dir(&stuck).unwrap();
    let dead = loop {
        // In any order of the listing, some come after the one that cannot be removed.
        let dead = gone(State::Running);
        place.publish(&dead);
        if place.directory.read().unwrap().len() > 8 {
            break dead;
        }
    };
    fs::write(place.ready(), "").unwrap();
    assert!(place.open().sweep().is_err());
    assert!(!place.record_file(dead.identity.pid).exists() && !place.ready().exists());
    assert_eq!(fs::read_dir(place.path("sidekiq/processes")).unwrap().count(), 1);
}

#[test]
fn a_record_of_another_container_is_kept_while_it_may_live() {
    let place = Place::new();
    let elsewhere = |pid, age: f64| {
        let mut record = of(pid, State::Running);
        record.identity.pid_namespace = Some(1);
        record.beat_monotonic = record.beat_monotonic.map(|beat| beat - age);
        record
    };
    let boots = |pid, age| {
        let mut record = Record { beat: None, beat_monotonic: None, ..elsewhere(pid, 0.0) };
        record.since -= jiff::SignedDuration::from_secs(age);
        record
    };
    let mut ended = elsewhere(105, 0.0);
    ended.enter(State::Stopped, None);
    for record in [elsewhere(101, 0.0), elsewhere(102, 3600.0), boots(103, 0), boots(104, 3600), ended] {
        place.publish(&record);
    }
    fs::write(place.path("sidekiq/processes/106-1-5c7be2aa"), "{").unwrap();
    place.open().sweep().unwrap();
    let entries = place.directory.read().unwrap();
    let mut pids: Vec<i32> = entries.iter().map(|entry| entry.pid).collect();
    pids.sort_unstable();
    assert_eq!(pids, [101, 103]);
    assert!(entries.iter().all(|entry| entry.facts().presence == Presence::Elsewhere));
}

/// A record with the calling process's pid, in another container (a PID namespace) that shares the directory.
fn twin(state: State) -> Record {
    let mut twin = own(state);
    twin.identity.pid_namespace = Some(1);
    // It has had a heartbeat since the calling process started.
    twin.beat = twin.beat.map(|beat| beat + jiff::SignedDuration::from_secs(1));
    twin
}

#[test]
fn two_containers_with_the_same_pid_have_one_record_each() {
    let place = Place::new();
    let (ours, mut theirs) = (own(State::Running), twin(State::Running));
    let pid = ours.identity.pid;
    let records = || {
        let mut records: Vec<Record> =
            place.directory.entries_of(pid).unwrap().into_iter().map(|entry| entry.record.unwrap()).collect();
        records.sort_by_key(|record| record.identity.pid_namespace);
        records
    };
    let names = || fs::read_dir(place.path("sidekiq/processes")).unwrap().count();
    place.publish(&theirs);
    for _ in 0..2 {
        place.publish(&ours);
        place.publish(&theirs);
        assert_eq!(records(), [theirs.clone(), ours.clone()]);
    }
    assert_eq!(Record::parse(&fs::read(place.record_file(pid)).unwrap()).unwrap(), theirs, "it was there first");
    assert_eq!(place.directory.read().unwrap().len(), 2);

    // Each removes its own alone.
    place.open().withdraw_record(&ours.identity).unwrap();
    assert_eq!(records(), std::slice::from_ref(&theirs));
    place.publish(&ours);
    place.open().withdraw_record(&theirs.identity).unwrap();
    assert_eq!(records(), std::slice::from_ref(&ours));

    place.publish(&theirs);
    place.publish(&ours);
    assert_eq!(Record::parse(&fs::read(place.record_file(pid)).unwrap()).unwrap(), theirs);
    theirs.enter(State::Stopped, None);
    place.publish(&theirs);
    place.publish(&ours);
    assert_eq!((records(), names()), (vec![ours.clone()], 1), "the ordinary name is free once the other has ended");
    assert!(place.record_file(pid).exists());

    // It is unknown whose a broken record is; in another's place it hides no process.
    fs::write(place.path(&format!("sidekiq/processes/{pid}-1-5c7be2aa")), "{").unwrap();
    place.sync_sentinels(&ours).unwrap();
    assert!(place.ready().exists());
}

#[test]
fn sentinels_cover_all_containers_and_probes_their_own() {
    let answer = |place: &Place, probe| {
        let facts: Vec<Facts> = place.directory.read().unwrap().iter().map(Entry::facts).collect();
        crate::model::probe::ask(&facts, probe, MAX_BEAT_AGE).is_ok()
    };
    let silent = |mut record: Record| {
        record.beat_monotonic = record.beat_monotonic.map(|beat| beat - 3600.0);
        record
    };
    let killed_before = |mut record: Record| {
        record.beat = record.timings.get("booting").copied();
        record
    };
    let other_machine = |mut record: Record| {
        record.identity.boot_id = Some("another".to_owned());
        record
    };
    for (ours, theirs, ready) in [
        (State::Running, twin(State::Running), true),
        (State::Running, twin(State::Quiet), false),
        (State::Quiet, twin(State::Running), false),
        // The other one creates it, at its next heartbeat.
        (State::Stopped, twin(State::Running), false),
        (State::Running, twin(State::Stopped), true),
        (State::Running, other_machine(twin(State::Quiet)), false),
        (State::Running, silent(twin(State::Quiet)), true),
        // What the container itself has left, when it was killed and restarted.
        (State::Running, killed_before(twin(State::Quiet)), true),
    ] {
        let place = Place::new();
        let ours = own(ours);
        place.publish(&theirs);
        place.publish(&ours);
        place.sync_sentinels(&ours).unwrap();
        assert_eq!(place.ready().exists(), ready, "{} {theirs:?}", ours.state);
        assert_eq!(answer(&place, Probe::Ready), ours.state == State::Running, "{} {theirs:?}", ours.state);
        assert_eq!(answer(&place, Probe::Live), ours.state != State::Stopped, "{} {theirs:?}", ours.state);
    }
}

#[test]
fn another_container_that_uses_the_directory_is_noticed() {
    let own_record = Record::new(About::default(), None);
    let foreign_process = |theirs: &Record| {
        let place = Place::new();
        place.publish(theirs);
        place.open().foreign_process(&own_record)
    };
    let mut theirs = of(own_record.identity.pid, State::Running);
    theirs.beat = theirs.beat.map(|beat| beat + jiff::SignedDuration::from_secs(1));
    assert_eq!(foreign_process(&theirs), None, "of this container");
    theirs.identity.pid_namespace = Some(1);
    assert_eq!(foreign_process(&theirs), Some(theirs.identity.pid), "with the same pid, too");
    theirs.identity.boot_id = Some("another".to_owned());
    assert_eq!(foreign_process(&theirs), Some(theirs.identity.pid), "on another machine");
    theirs.beat = theirs.beat.map(|beat| beat - jiff::SignedDuration::from_secs(3600));
    assert_eq!(foreign_process(&theirs), None, "from before the machine was rebooted");
    theirs.identity.boot_id = crate::sys::identity::Identity::own().boot_id;
    assert_eq!(foreign_process(&theirs), None, "a predecessor, from before this process began");
    theirs.beat = None;
    assert_eq!(foreign_process(&theirs), None, "it has never beaten");
}
