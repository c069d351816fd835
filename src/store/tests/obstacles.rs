//! What is in the way: other files, a full disk, a read-only file system.

use super::*;

#[test]
fn a_missing_directory_is_made_by_a_writer_only() {
    let place = Place::new();
    assert!(error(place.directory.read()).ends_with("sidekiq does not exist: no Sidekiq has registered there"));
    assert_eq!(place.all(), [""; 0]);
    let deep = Directory::new(&place.path("a/b/c"), None);
    deep.open().unwrap();
    assert_eq!(place.all(), ["a", "a/b", "a/b/c", "a/b/c/processes"]);
    assert_eq!(deep.read().unwrap().len(), 0);
}

#[test]
fn a_link_in_place_of_the_directory_is_not_followed() {
    for target in ["outside", "nowhere"] {
        for slash in ["", "/", "/.", "//"] {
            let place = Place::new();
            fs::create_dir(place.path("outside")).unwrap();
            symlink(place.path(target), place.path("sidekiq")).unwrap();
            let directory = Directory::new(&place.path(&format!("sidekiq{slash}")), None);
            for said in [error(directory.open()), error(directory.read())] {
                assert!(said.contains("sidekiq is a symbolic link, which is not followed here"), "{slash:?} {said}");
            }
            assert_eq!(place.all(), ["outside", "sidekiq"]);
        }
    }
}

#[test]
fn a_link_further_up_is_the_applications_own() {
    let place = Place::new();
    fs::create_dir(place.path("release")).unwrap();
    symlink("release", place.path("current")).unwrap();
    Directory::new(&place.path("current/tmp/sidekiq"), None).open().unwrap();
    assert!(place.path("release/tmp/sidekiq/processes").is_dir());
}

#[test]
fn a_link_in_place_of_what_is_inside_is_not_followed() {
    let place = Place::new();
    fs::create_dir(place.path("outside")).unwrap();
    fs::create_dir(place.path("sidekiq")).unwrap();
    symlink(place.path("outside"), place.path("sidekiq/processes")).unwrap();
    for said in [error(place.directory.open()), error(place.directory.read())] {
        assert!(said.contains("processes is a symbolic link"), "{said}");
    }
    assert_eq!(place.all(), ["outside", "sidekiq", "sidekiq/processes"]);
}

#[test]
fn a_link_in_place_of_a_file_is_replaced_or_removed_and_its_target_is_not_touched() {
    let place = Place::new();
    let running = own(State::Running);
    let pid = running.identity.pid;
    let precious = place.path("precious");
    fs::write(&precious, "precious").unwrap();
    place.open();
    for name in ["sidekiq/ready", "sidekiq/drained", &format!("sidekiq/processes/{pid}")] {
        symlink(&precious, place.path(name)).unwrap();
    }
    let read = place.directory.read().unwrap();
    assert_eq!(read[0].record, Err("it is a symbolic link".to_owned()));
    place.publish(&running);
    place.sync_sentinels(&running).unwrap();
    assert!(place.ready().is_file() && !place.ready().is_symlink());
    assert!(place.record_file(pid).is_file() && !place.record_file(pid).is_symlink());
    assert!(!place.path("sidekiq/drained").is_symlink(), "removed");
    symlink(&precious, place.path("sidekiq/drained")).unwrap();
    fs::remove_file(place.ready()).unwrap();
    symlink(&precious, place.ready()).unwrap();
    place.open().withdraw_ready().unwrap();
    assert!(!place.ready().is_symlink(), "removed");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn a_file_in_place_of_a_directory() {
    for (file, culprit) in [("sidekiq", "sidekiq"), ("sidekiq/processes", "sidekiq/processes")] {
        let place = Place::new();
        fs::create_dir_all(place.path(file).parent().unwrap()).unwrap();
        fs::write(place.path(file), "a file").unwrap();
        for said in [error(place.directory.open()), error(place.directory.read())] {
            let culprit = place.path(culprit);
            assert_eq!(said, format!("{} is not a directory; remove it or set another directory", culprit.display()));
        }
        assert_eq!(fs::read_to_string(place.path(file)).unwrap(), "a file");
    }
    let place = Place::new();
    fs::write(place.path("tmp"), "a file").unwrap();
    let said = error(Directory::new(&place.path("tmp/sidekiq"), None).open());
    assert!(said.starts_with(&format!("{} is not a directory", place.path("tmp").display())), "{said}");
}

/// Outside of its user namespace root has no capabilities either.
const NO_POWER: &str = "exec unshare --user \"$@\"";

#[test]
fn a_directory_of_another_user_is_reported() {
    if within("obstacles::a_directory_of_another_user_is_reported", "unshare --user true", NO_POWER) {
        let place = Place::new();
        fs::set_permissions(place.home.path(), Permissions::from_mode(0o555)).unwrap();
        let said = error(place.directory.open());
        assert!(said.contains("sidekiq is not accessible to uid ") && said.contains("(Permission denied)"), "{said}");
        fs::set_permissions(place.home.path(), Permissions::from_mode(0o755)).unwrap();

        place.open();
        fs::set_permissions(place.path("sidekiq/processes"), Permissions::from_mode(0o555)).unwrap();
        let said = error(place.open().publish_record(&own(State::Running), Durability::Whole));
        assert!(said.contains("processes is not accessible to uid "), "{said}");
        fs::set_permissions(place.path("sidekiq"), Permissions::from_mode(0o000)).unwrap();
        assert!(error(place.directory.read()).contains("sidekiq is not accessible to uid "));
        fs::set_permissions(place.path("sidekiq"), Permissions::from_mode(0o755)).unwrap();
    }
}

const MOUNTS: &str = "unshare --user --map-root-user --mount mount -t tmpfs tmpfs /mnt";
const SMALL: &str = "exec unshare --user --map-root-user --mount sh -c \
                     'mount -t tmpfs -o size=64k tmpfs \"$TMPDIR\" && exec \"$@\"' sh \"$@\"";

fn fill(place: &Place) {
    let mut file = OpenOptions::new().create(true).append(true).open(place.path("filling")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[test]
fn on_a_full_file_system_the_record_stays_true() {
    if !within("obstacles::on_a_full_file_system_the_record_stays_true", MOUNTS, SMALL) {
        return;
    }
    let place = Place::new();
    let said = |result| assert!(error(result).contains("is on a full file system; make room there"));
    let mut record = own(State::Running);
    let pid = record.identity.pid;
    place.publish(&record);
    place.sync_sentinels(&record).unwrap();
    fill(&place);

    record.enter(State::Quiet, Some("SIGTSTP".to_owned()));
    said(place.open().publish_record(&record, Durability::Flushed));
    place.sync_sentinels(&record).unwrap();
    assert!(!place.ready().exists());
    assert_eq!(place.record(pid).as_ref(), Some(&record), "written over the old one");
    fill(&place); // What was removed has left some room.
    record.why = None;
    said(place.open().publish_record(&record, Durability::Flushed));
    assert_eq!(place.record(pid).as_ref(), Some(&record), "also where it has become shorter");
    let names = fs::read_dir(place.path("sidekiq/processes")).unwrap().count();
    assert_eq!(names, 1, "nothing is left aside");

    let alias = place.path("alias");
    fs::hard_link(place.record_file(pid), &alias).unwrap();
    let before = fs::read(&alias).unwrap();
    said(place.open().publish_record(&own(State::Stopping), Durability::Flushed));
    assert_eq!(fs::read(&alias).unwrap(), before, "a file with a second name is nobody's to write over");
    assert_eq!(place.record(pid), None, "none is better than an untrue one");
    fs::remove_file(alias).unwrap();

    // No room even over the old one.
    fs::remove_file(place.path("filling")).unwrap();
    place.publish(&own(State::Running));
    fill(&place);
    record.about.tag = Some("x".repeat(10_000));
    said(place.open().publish_record(&record, Durability::Flushed));
    assert_eq!(place.record(pid), None, "none is better than an untrue one");
    fill(&place);
    said(place.sync_sentinels(&own(State::Running)));
    assert!(!place.ready().exists());

    fs::remove_file(place.path("filling")).unwrap();
    place.publish(&record);
    assert_eq!(place.record(pid).as_ref(), Some(&record));
}

#[test]
fn a_read_only_file_system_is_reported_and_readable() {
    const TEST: &str = "obstacles::a_read_only_file_system_is_reported_and_readable";
    if !within(TEST, MOUNTS, SMALL) {
        return;
    }
    let place = Place::with_ready_file(Some("pids/started"));
    let running = own(State::Running);
    place.publish(&running);
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", how]).arg(std::env::temp_dir()).status().unwrap();
        assert!(status.success());
    };
    remount("remount,bind,ro");
    let open = place.open();
    for done in [
        open.publish_record(&running, Durability::Whole),
        place.sync_sentinels(&running),
        open.withdraw_record(&of(1 << 22, State::Running).identity),
    ] {
        let said = error(done);
        assert!(said.contains("is on a read-only file system; mount a writable volume there"), "{said}");
    }
    assert!(error(Directory::new(&place.path("new"), None).open()).contains("is on a read-only file system"));
    assert_eq!(place.directory.read().unwrap().len(), 1);
    assert_eq!(place.open().withdraw_ready().map_err(|error| error.to_string()), Ok(()), "none is there");
    remount("remount,bind,rw");
}
