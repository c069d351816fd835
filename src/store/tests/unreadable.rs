//! Files that are not records.

use super::*;

#[test]
fn names_that_are_not_pids_are_ignored() {
    let place = Place::new();
    place.open();
    for name in ["0", "-1", "+7", "007", "7 ", "self", "99999999999", ".1"] {
        fs::write(place.path("sidekiq/processes").join(name), "{}").unwrap();
    }
    assert_eq!(place.directory.read().unwrap().len(), 0);
    let running = own(State::Running);
    place.sync_sentinels(&running).unwrap();
    assert!(place.ready().exists());
}

#[test]
fn files_planted_in_place_of_a_record_are_reported_and_block_nothing() {
    type Plant = fn(&Path, i32);
    let plants: [(&str, Plant, &str); 7] = [
        ("an empty file", |path, _| fs::write(path, "").unwrap(), "EOF"),
        ("a huge file", |path, _| File::create(path).unwrap().set_len(1 << 40).unwrap(), "expected value"),
        ("deep brackets", |path, _| fs::write(path, "[".repeat(1 << 20)).unwrap(), "invalid type"),
        ("a pipe", |path, _| mkfifo(path, Mode::S_IRWXU).unwrap(), "it is not a file"),
        ("a directory", |path, _| fs::create_dir(path).unwrap(), "it is not a file"),
        ("a link", |path, _| symlink("/dev/zero", path).unwrap(), "it is a symbolic link"),
        (
            "another's record",
            |path, pid| fs::write(path, of(pid + 1, State::Running).to_json().unwrap()).unwrap(),
            "it is about process",
        ),
    ];
    let neighbour = Living::new();
    let pid = neighbour.pid();
    for (what, plant, reason) in plants {
        let place = Place::new();
        place.open();
        plant(&place.record_file(pid), pid);
        let entries = place.directory.read().unwrap();
        let said = entries[0].record.as_ref().unwrap_err();
        assert!(said.contains(reason), "{what}: {said}");
        // Its process exists and may be a Sidekiq that is not ready.
        place.sync_sentinels(&own(State::Running)).unwrap();
        assert!(!place.ready().exists(), "{what}");
    }
}

#[test]
fn an_unreadable_record_that_is_no_longer_written_is_ignored() {
    let place = Place::new();
    let neighbour = Living::new();
    let file = place.record_file(neighbour.pid());
    place.open();
    fs::write(&file, "").unwrap();
    make_old(&file);
    place.sync_sentinels(&own(State::Running)).unwrap();
    assert!(place.ready().exists());
    place.open().sweep().unwrap();
    assert!(!file.exists());
}

#[test]
fn a_directory_in_place_of_the_own_record_is_named() {
    let place = Place::new();
    let running = own(State::Running);
    place.open();
    fs::create_dir(place.record_file(running.identity.pid)).unwrap();
    let said = error(place.open().publish_record(&running, Durability::Whole));
    assert!(said.ends_with(&format!("processes/{}: Is a directory", running.identity.pid)), "{said}");
    assert_eq!(fs::read_dir(place.path("sidekiq/processes")).unwrap().count(), 1, "nothing is left aside");
}

#[test]
fn a_directory_in_place_of_a_sentinel_is_not_touched() {
    let place = Place::new();
    fs::create_dir_all(place.path("sidekiq/ready/inside")).unwrap();
    for done in [place.sync_sentinels(&own(State::Running)), place.sync_sentinels(&own(State::Quiet))] {
        let said = error(done);
        assert!(
            said.ends_with("is not a ready file of sidekiq_lifecycle; move it away or set another ready_file"),
            "{said}"
        );
    }
    assert!(place.path("sidekiq/ready/inside").is_dir());
}
