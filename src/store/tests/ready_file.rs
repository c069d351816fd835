//! The ready file in a place of the application's choice.

use super::*;

#[test]
fn a_ready_file_elsewhere() {
    let place = Place::with_ready_file(Some("shared/pids/started"));
    let running = own(State::Running);
    place.sync_sentinels(&running).unwrap();
    assert_eq!(fs::read_to_string(place.path("shared/pids/started")).unwrap(), "sidekiq_lifecycle ready\n");
    assert!(!place.ready().exists());
    place.sync_sentinels(&own(State::Quiet)).unwrap();
    assert_eq!(place.all(), ["shared", "shared/pids", "sidekiq", "sidekiq/processes"]);
    place.sync_sentinels(&running).unwrap();
    place.open().withdraw_ready().unwrap();
    assert!(!place.path("shared/pids/started").exists());
}

#[test]
fn the_directorys_own_ready_file_by_its_full_name_is_no_other() {
    let place = Place::with_ready_file(Some("sidekiq//ready/"));
    assert_eq!(place.directory.ready_file(), None);
}

#[test]
fn parents_of_a_ready_file_may_be_links() {
    let place = Place::with_ready_file(Some("pids/started"));
    fs::create_dir(place.path("shared")).unwrap();
    symlink("shared", place.path("pids")).unwrap();
    place.sync_sentinels(&own(State::Running)).unwrap();
    assert!(place.path("shared/started").is_file());
    place.sync_sentinels(&own(State::Quiet)).unwrap();
    assert!(!place.path("shared/started").exists());
}

#[test]
fn a_foreign_file_in_place_of_the_ready_file_is_neither_replaced_nor_removed() {
    type Plant = fn(&Path);
    let plants: [(&str, Plant); 7] = [
        ("a file", |path| fs::write(path, "4711\n").unwrap()),
        ("the beginning of a signature", |path| fs::write(path, "sidekiq_life").unwrap()),
        ("a link to nothing", |path| symlink("nowhere", path).unwrap()),
        ("a link to an empty file", |path| {
            fs::write(path.with_file_name("empty"), "").unwrap();
            symlink("empty", path).unwrap();
        }),
        ("a pipe", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ];
    for (what, plant) in plants {
        let place = Place::with_ready_file(Some("started"));
        plant(&place.path("started"));
        place.open();
        let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
        let (before, planted) = (place.all(), inode(&place.path("started")));
        let said = error(place.sync_sentinels(&own(State::Running)));
        assert!(said.ends_with("move it away or set another ready_file"), "{what}: {said}");
        assert_eq!(error(place.sync_sentinels(&own(State::Quiet))), "no error", "{what}");
        assert_eq!(error(place.open().withdraw_ready()), "no error", "{what}");
        assert_eq!((place.all(), inode(&place.path("started"))), (before, planted), "{what}");
    }
}

#[test]
fn an_empty_ready_file_is_taken_over() {
    let place = Place::with_ready_file(Some("started"));
    fs::write(place.path("started"), "").unwrap();
    place.sync_sentinels(&own(State::Running)).unwrap();
    assert!(place.path("started").exists());
    place.sync_sentinels(&own(State::Quiet)).unwrap();
    assert!(!place.path("started").exists());
}

#[test]
fn a_file_among_the_parents_of_a_ready_file() {
    let place = Place::with_ready_file(Some("tmp/pids/started"));
    fs::write(place.path("tmp"), "").unwrap();
    let said = error(place.sync_sentinels(&own(State::Running)));
    assert!(said.starts_with(&format!("{} is not a directory", place.path("tmp").display())), "{said}");
}
