use std::fs::File;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use nix::sys::stat::utimes;
use nix::sys::stat::{Mode, fstat};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::getpid;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::directory::{Directory, Processes};
use super::entry::Entry;
use super::error::Error;
use super::files::Durability;
use super::kept_descriptors::{KeptDescriptors, NEEDED};
use super::record::{About, Record};
use super::writing::OpenDirectory;
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::state::State;
use crate::sys::identity::Identity;

/// A place to work in, and a directory in it.
struct Place {
    home: TempDir,
    directory: Directory,
}

impl Place {
    fn new() -> Self {
        Self::with_ready_file(None)
    }

    fn with_ready_file(ready_file: Option<&str>) -> Self {
        let home = TempDir::new().unwrap();
        let ready_file = ready_file.map(|name| home.path().join(name));
        let directory = Directory::new(&home.path().join("sidekiq"), ready_file.as_deref());
        Self { home, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn ready(&self) -> PathBuf {
        self.path("sidekiq/ready")
    }

    fn record_file(&self, pid: i32) -> PathBuf {
        self.path(&format!("sidekiq/processes/{pid}"))
    }

    fn open(&self) -> OpenDirectory<'_> {
        self.directory.open().unwrap()
    }

    fn publish(&self, record: &Record) {
        self.open().publish_record(record, Durability::Whole).unwrap();
    }

    fn record(&self, pid: i32) -> Option<Record> {
        self.directory.entries_of(pid).unwrap().pop()?.record.ok()
    }

    fn sync_sentinels(&self, own: &Record) -> Result<(), Error> {
        self.open().sync_sentinels(|| Some(own.clone()))
    }

    /// Every path below the place, to show that nothing else has come or gone.
    fn all(&self) -> Vec<String> {
        fn walk(path: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
                found.push(entry.path());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.home.path(), &mut found);
        let relative = |path: &PathBuf| path.strip_prefix(self.home.path()).unwrap().display().to_string();
        let mut names: Vec<String> = found.iter().map(relative).collect();
        names.sort();
        names
    }
}

/// A record of the calling process.
fn own(state: State) -> Record {
    let mut record = Record::new(About::default(), None);
    record.record_heartbeat();
    record.enter(state, None);
    record
}

/// A record of a process that has ended; no process has its pid now.
fn gone(state: State) -> Record {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    of(i32::try_from(child.id()).unwrap(), state)
}

fn of(pid: i32, state: State) -> Record {
    let record = own(state);
    Record { identity: Identity { pid, ..record.identity }, ..record }
}

/// Some other process that lives, until this is dropped.
struct Living(Child);

impl Living {
    fn new() -> Self {
        Self(Command::new("sleep").arg("3600").spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn make_old(path: &Path) {
    let then = TimeVal::seconds(1_000_000_000);
    utimes(path, &then, &then).unwrap();
}

fn error<T>(result: Result<T, Error>) -> String {
    result.err().map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

/// Runs the calling test once more, in another process that the shell starts ("$@" is that process; it works in
/// $TMPDIR). Returns true there: the test does its work. Returns false here, where the other process has done it, or
/// where this machine cannot.
fn within(test: &str, needs: &str, shell: &str) -> bool {
    const INSIDE: &str = "SIDEKIQ_LIFECYCLE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Command::new("sh").args(["-c", needs]).output().unwrap().status.success() {
        eprintln!("skipped: {test}: this machine refuses: {needs}");
        return false;
    }
    let name = format!("store::tests::{test}");
    let home = TempDir::new().unwrap();
    let output = Command::new("sh")
        .args(["-c", shell, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .env("TMPDIR", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

// ---- publish and withdraw ----

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

// ---- modes ----

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
    if within("all_may_read_under_the_usual_umask", "true", "umask 022; exec \"$@\"") {
        modes(0o022);
    }
}

#[test]
fn a_strict_umask_is_respected() {
    if within("a_strict_umask_is_respected", "true", "umask 077; exec \"$@\"") {
        modes(0o077);
    }
}

// ---- other files in place of the directory ----

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
    if within("a_directory_of_another_user_is_reported", "unshare --user true", NO_POWER) {
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

// ---- a full and a read-only file system ----

const MOUNTS: &str = "unshare --user --map-root-user --mount mount -t tmpfs tmpfs /mnt";
const SMALL: &str = "exec unshare --user --map-root-user --mount sh -c \
                     'mount -t tmpfs -o size=64k tmpfs \"$TMPDIR\" && exec \"$@\"' sh \"$@\"";

fn fill(place: &Place) {
    let mut file = OpenOptions::new().create(true).append(true).open(place.path("filling")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[test]
fn on_a_full_file_system_the_record_stays_true() {
    if !within("on_a_full_file_system_the_record_stays_true", MOUNTS, SMALL) {
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
    const TEST: &str = "a_read_only_file_system_is_reported_and_readable";
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

// ---- the ready file in a place of the application's choice ----

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

// ---- the sweep ----

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

// ---- files that are not records ----

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

// ---- the lock ----

#[test]
fn the_lock_excludes_a_second_writer_for_a_while() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    let held = first.lock();
    assert!(held.is_some());
    assert!(second.lock().is_none(), "gives up rather than wait for ever");
    drop(held);
    assert!(second.lock().is_some());
}

#[test]
fn a_waiting_writer_gets_the_lock_when_it_is_free() {
    let place = Place::new();
    let counted = std::sync::Mutex::new((0, 0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let open = place.open();
                    let Some(_lock) = open.lock() else { continue };
                    counted.lock().unwrap().0 += 1;
                    assert_eq!(counted.lock().unwrap().0, 1, "one at a time");
                    counted.lock().unwrap().1 += 1;
                    counted.lock().unwrap().0 -= 1;
                }
            });
        }
    });
    assert!(counted.lock().unwrap().1 > 0);
}

#[test]
fn a_child_forked_while_the_lock_is_held_does_not_keep_it() {
    let place = Place::new();
    let open = place.open();
    let lock = open.lock().unwrap();
    // What a fork leaves in the child: another descriptor of the same open file.
    let inherited = lock.try_clone().unwrap();
    drop(lock);
    assert!(place.open().lock().is_some());
    drop(inherited);
}

// ---- urgent work ----

#[test]
fn urgent_work_is_done_between_two_records() {
    let place = Place::new();
    let record = own(State::Running);
    place.publish(&record);
    place.sync_sentinels(&record).unwrap();
    assert!(place.ready().exists());
    for pid in 4_000_001..4_000_010 {
        fs::write(place.record_file(pid), "hostile").unwrap();
    }
    let asked = std::cell::Cell::new(0);
    let is_urgent = || {
        asked.set(asked.get() + 1);
        assert_eq!(place.ready().exists(), asked.get() <= 3, "before or after the third time");
        asked.get() == 3
    };
    place.directory.open_with(&is_urgent).unwrap().sync_sentinels(|| Some(record.clone())).unwrap();
    assert!(asked.get() >= 10);
    assert!(!place.ready().exists(), "it is not put up again from what was read before");
}

#[test]
fn kept_descriptors_are_released_but_never_those_of_others() {
    let place = Place::new();
    let mut kept = KeptDescriptors::default();
    assert!(!kept.release());
    for (spare, count) in [(false, 1), (true, NEEDED), (true, NEEDED)] {
        kept.keep(place.open(), spare);
        assert_eq!(kept.0.len(), count);
    }
    assert!(kept.release() && !kept.release());
    // The number has become another file's.
    let theirs = fs::File::open(place.path("sidekiq")).unwrap();
    let wrong = Processes { place: (0, 0), descriptor: theirs.try_clone().unwrap().into() };
    let number = wrong.descriptor.as_raw_fd();
    kept.0.push(wrong);
    assert!(kept.release());
    let seen = fs::metadata(format!("/proc/self/fd/{number}")).unwrap();
    assert_eq!((seen.dev(), seen.ino()), super::files::device_and_inode(&fstat(&theirs).unwrap()), "it is still open");
}
