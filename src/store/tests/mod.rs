//! The lifecycle directory on a real file system, and what the tests share.

mod obstacles;
mod publishing;
mod ready_file;
mod sweep;
mod unreadable;
mod writers;

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

use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::state::State;
use crate::store::directory::{Directory, Processes};
use crate::store::entry::Entry;
use crate::store::error::Error;
use crate::store::files::Durability;
use crate::store::kept_descriptors::{KeptDescriptors, NEEDED};
use crate::store::record::{About, Record};
use crate::store::writing::OpenDirectory;
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
