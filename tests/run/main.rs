//! The init, with real processes: as PID 1 of a namespace of its own where that is allowed, and as a subreaper.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::Signal;
use sidekiq_lifecycle::model::signal_map::Number;
use sidekiq_lifecycle::sys::children::send;
use sidekiq_lifecycle::sys::procfs::{Mask, Snapshot};
use sidekiq_lifecycle::sys::signals::disposition::with_signals_blocked;
use tempfile::TempDir;

mod duties;
mod ending;
mod signals;
#[path = "../support/mod.rs"]
mod support;
mod terminal;

use support::undisturbed;

/// A worker that notes every signal it gets, and at TERM works on for so many seconds. It is a script of a program that is no
/// shell, as Sidekiq is; Perl is part of every Debian. Called `sidekiq` it has Sidekiq's title. It does not outlive its log.
const WORKER: &str = r#"#!/usr/bin/perl
use Config;
my ($log, $drain) = @ARGV;
$0 = 'sidekiq 7.3.2 app [0 of 5 busy]' if $0 =~ m{/sidekiq$};
open my $out, '>>', $log or die "$log: $!";
my @names = split ' ', $Config{sig_name};
my $stop;
sub note { syswrite $out, "$_[0]\n" }
for my $number (1 .. 64) {
  next if grep { $_ == $number } 9, 11, 17, 19, 32, 33;
  # As Ruby does: what is ignored when it starts stays so, but for INT, which Sidekiq traps.
  next if $number != 2 && ($SIG{$names[$number]} // "") eq "IGNORE";
  $SIG{$names[$number]} = sub { note($number); $stop = 1 if $number == 15 };
}
note('ready');
select undef, undef, undef, 0.02 until $stop || !-e $log;
my $until = time + $drain;
select undef, undef, undef, 0.3;
select undef, undef, undef, 0.1 while time < $until && -e $log;
note('done');
exit 7;
"#;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Pid1,
    Subreaper,
}

/// Both, where PID namespaces are allowed.
fn places() -> Vec<Place> {
    let status = Command::new("unshare").args(NAMESPACE).arg("true").stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        vec![Place::Subreaper, Place::Pid1]
    } else {
        println!("not as PID 1: unshare is not allowed here");
        vec![Place::Subreaper]
    }
}

const NAMESPACE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

/// A directory with the workers `sidekiq` and `other`.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(TempDir::new().unwrap());
        for name in ["sidekiq", "other"] {
            fs::write(home.0.path().join(name), WORKER).unwrap();
            fs::set_permissions(home.0.path().join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        home
    }

    /// The command line of `run`, called in this directory.
    fn command(&self, place: Place, options: &[&str], command: &[&str]) -> Command {
        let init = env!("CARGO_BIN_EXE_sidekiq-lifecycle");
        let mut line = match place {
            Place::Subreaper => undisturbed(init),
            Place::Pid1 => undisturbed("unshare"),
        };
        if place == Place::Pid1 {
            line.args(NAMESPACE).arg(init);
        }
        line.arg("run").args(options).arg("--").args(command).current_dir(&self.0).stdin(Stdio::null());
        line
    }

    fn start(&self, place: Place, options: &[&str], command: &[&str]) -> Running {
        let errors = File::create(self.0.path().join("stderr")).unwrap();
        let mut child = self.command(place, options, command).stderr(errors).spawn().unwrap();
        let started = i32::try_from(child.id()).unwrap();
        let pid = match place {
            Place::Subreaper => started,
            Place::Pid1 => wait_for("unshare's child", || match children_of(started).first() {
                Some(init) => Some(init.pid),
                None => child.try_wait().unwrap().map(|_| started),
            }),
        };
        Running { child, pid, home: self.0.path().to_owned() }
    }
}

/// An init that runs.
struct Running {
    child: Child,
    pid: i32,
    home: PathBuf,
}

impl Running {
    fn send(&self, signal: impl Into<Number>) {
        send(self.pid, signal.into()).unwrap();
    }

    /// The lines that a worker has noted.
    fn notes(&self, log: &str) -> Vec<String> {
        notes(&self.home.join(log))
    }

    fn wait_for_note(&self, log: &str, note: &str) {
        wait_for(&format!("'{note}' in {log}, which has {:?}", self.notes(log)), || {
            self.notes(log).iter().any(|line| line == note).then_some(())
        });
    }

    /// The exit code and what was said on standard error.
    fn end(mut self) -> (i32, String) {
        let status = wait_for("the end", || self.child.try_wait().unwrap());
        (status.code().unwrap(), fs::read_to_string(self.home.join("stderr")).unwrap())
    }
}

impl Drop for Running {
    /// A test that has failed leaves nothing behind.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            for pid in below(self.pid) {
                let _ = send(pid, Signal::SIGKILL.into());
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn notes(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        sleep(Duration::from_millis(10));
    }
}

fn children_of(pid: i32) -> Vec<Snapshot> {
    Snapshot::all().into_iter().filter(|snapshot| snapshot.parent == pid).collect()
}

fn below(pid: i32) -> Vec<i32> {
    children_of(pid).into_iter().flat_map(|child| below(child.pid).into_iter().chain([child.pid])).collect()
}

fn signals(notes: &[String]) -> Vec<&str> {
    notes.iter().map(String::as_str).filter(|note| note.parse::<i32>().is_ok()).collect()
}

/// What a subreaper has left behind; as PID 1 nothing can be.
fn end_those(pids: &[i32]) {
    for pid in pids.iter().filter(|pid| Snapshot::of(**pid).is_some()).copied() {
        for pid in below(pid).into_iter().chain([pid]) {
            let _ = send(pid, Signal::SIGKILL.into());
        }
    }
}
