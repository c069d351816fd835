//! The built command, as health checks, scripts and people call it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::SignedDuration;
use nix::pty::openpty;
use nix::unistd::pipe;
use serde_json::Value;
use sidekiq_lifecycle::model::job::Job;
use sidekiq_lifecycle::model::state::State;
use sidekiq_lifecycle::store::directory::Directory;
use sidekiq_lifecycle::store::files::Durability;
use sidekiq_lifecycle::store::record::{About, Problem, Record};
use tempfile::TempDir;

/// An application's root, where the command is called.
struct App(TempDir);

impl App {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn with(record: &Record) -> Self {
        let app = Self::new();
        app.publish(record);
        app
    }

    fn directory(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("tmp/sidekiq")
    }

    fn publish(&self, record: &Record) {
        publish(&self.directory(), record);
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidekiq-lifecycle"));
        command.args(arguments).current_dir(&self.0).env("TERM", "xterm").stdin(Stdio::null());
        for name in ["SIDEKIQ_LIFECYCLE_DIR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
            command.env_remove(name);
        }
        command
    }

    fn call<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Said {
        said(&mut self.command(arguments))
    }
}

fn publish(directory: &Path, record: &Record) {
    Directory::new(directory, None).open().unwrap().publish_record(record, Durability::Whole).unwrap();
}

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn yes(line: &str) -> Said {
    (0, format!("{line}\n"), String::new())
}

fn no(line: &str) -> Said {
    (1, format!("{line}\n"), String::new())
}

/// A record of this process, which lives.
fn living(state: State) -> Record {
    let about =
        About { sidekiq: Some("8.1.7".into()), tag: Some("shop".into()), concurrency: Some(5), ..About::default() };
    let mut record = Record::new(about, None);
    record.record_heartbeat();
    record.enter(state, None);
    record
}

fn gone(state: State) -> Record {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let mut record = living(state);
    record.identity.pid = i32::try_from(child.id()).unwrap();
    record
}

// ---- check ----

#[test]
fn check_answers_with_the_exit_code_and_one_line() {
    let pid = std::process::id();
    let app = App::with(&living(State::Running));
    assert_eq!(app.call(&["check"]), yes("ready"));
    assert_eq!(app.call(&["check", "ready"]), yes("ready"));
    assert_eq!(app.call(&["check", "live"]), yes("live"));
    let not_told = format!("not drained: process {pid} is running and has not been quieted");
    assert_eq!(app.call(&["check", "drained"]), no(&not_told));

    let mut quiet = living(State::Quiet);
    quiet.busy = 2;
    app.publish(&quiet);
    assert_eq!(app.call(&["check"]), no(&format!("not ready: process {pid} is quiet")));
    assert_eq!(app.call(&["check", "live"]), yes("live"));
    let running = format!("not drained: process {pid} is quiet, 2 jobs still running");
    assert_eq!(app.call(&["check", "drained"]), no(&running));

    let job =
        |jid: &str, seconds| Job::started("HardJob", jid, "low", quiet.since - SignedDuration::from_secs(seconds));
    quiet.jobs.running = vec![job("01", 65), job("02", 3 * 3600 + 65)];
    app.publish(&quiet);
    let (code, line, _) = app.call(&["check", "drained"]);
    assert_eq!(code, 1);
    // Apart from the seconds, which go on.
    let named =
        format!("{running}: HardJob 02 (queue low, running for 3 h 1 min), HardJob 01 (queue low, running for 1 min");
    assert!(line.starts_with(&named), "{line}");
    let (_, table, _) = app.call(&["status"]);
    let waits_for = format!("\n{pid}: still running: HardJob 02 (queue low, running for 3 h 1 min");
    assert!(table.contains(&waits_for), "{table}");

    quiet.mark_drained();
    app.publish(&quiet);
    assert_eq!(app.call(&["check", "drained"]), yes("drained"));
}

#[test]
fn check_tells_a_live_process_from_a_dead_ones_leftovers() {
    let dead = gone(State::Running);
    let app = App::with(&dead);
    for probe in ["ready", "live", "drained"] {
        let reason = format!("not {probe}: process {} is gone", dead.identity.pid);
        assert_eq!(app.call(&["check", probe]), no(&reason));
    }
    app.publish(&living(State::Running));
    assert_eq!(app.call(&["check"]), yes("ready"));
}

#[test]
fn check_max_age() {
    let mut record = living(State::Running);
    record.beat_monotonic = record.beat_monotonic.map(|beat| beat - 1000.0);
    let app = App::with(&record);
    for probe in ["ready", "live"] {
        let (code, line, _) = app.call(&["check", probe]);
        assert_eq!(code, 1);
        assert!(
            line.contains("has had no heartbeat for 1")
                && line.ends_with("(more than 60 s): Ruby is stuck, or Redis hangs\n")
        );
        assert_eq!(app.call(&["check", probe, "--max-age", "999999.5"]), yes(probe));
        assert_eq!(app.call(&["check", probe, "--max-age=10"]).0, 1);
    }
}

#[test]
fn check_says_what_is_wrong_with_the_directory() {
    let app = App::new();
    let directory = app.directory();
    let path = directory.display();
    assert_eq!(app.call(&["check"]), no(&format!("not ready: {path} does not exist: no Sidekiq has registered there")));
    fs::create_dir_all(&directory).unwrap();
    assert_eq!(app.call(&["check"]), no("not ready: no Sidekiq has registered here"));
    fs::remove_dir(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    let a_file = format!("not ready: {path} is not a directory; remove it or set another directory");
    assert_eq!(app.call(&["check"]), no(&a_file));
    fs::remove_file(&directory).unwrap();
    symlink("elsewhere", &directory).unwrap();
    let (code, line, _) = app.call(&["check"]);
    assert!(code == 1 && line.starts_with(&format!("not ready: {path} is a symbolic link")), "{line}");
}

#[test]
fn check_makes_nothing() {
    let app = App::new();
    app.call(&["check"]);
    app.call(&["status"]);
    assert_eq!(fs::read_dir(&app.0).unwrap().count(), 0);
}

#[test]
fn the_answer_does_not_depend_on_who_reads_the_line() {
    for (state, code) in [(State::Running, 0), (State::Quiet, 1)] {
        let app = App::with(&living(state));
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for out in [Stdio::from(writer), Stdio::from(full)] {
            let mut command = app.command(&["check"]);
            assert_eq!(command.stdout(out).status().unwrap().code(), Some(code), "{state}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let app = App::with(&living(State::Running));
    for arguments in [&["status"][..], &["status", "--json"], &["path"], &["--help"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = app.command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}

#[test]
fn what_others_have_written_is_one_line_and_commands_no_terminal() {
    let mut record = living(State::Stopped);
    record.exit_status = Some(1);
    record.why = Some("Oops:\nall\u{1b}[31m red".to_owned());
    record.about.tag = Some("sh\u{7}op\u{9b}".to_owned());
    record.problems = vec![problem("first\r\nsecond\u{1b}]0;title\u{7}")];
    let app = App::with(&record);
    let (_, line, _) = app.call(&["check"]);
    assert!(line.ends_with("has stopped (exit 1, Oops: all [31m red)\n"), "{line:?}");
    let (_, table, _) = app.call(&["status"]);
    assert_eq!(table.lines().count(), 3);
    assert!(!table.chars().any(|letter| letter.is_control() && letter != '\n'), "{table:?}");
}

// ---- where ----

#[test]
fn the_directory_is_the_options_else_the_environments_else_the_default() {
    let app = App::with(&living(State::Running));
    let other = App::with(&living(State::Quiet));
    let third = App::with(&gone(State::Running));
    let line = |command: &mut Command| said(command).1;
    let quiet = format!("not ready: process {} is quiet\n", std::process::id());
    assert_eq!(line(app.command(&["check"]).env("SIDEKIQ_LIFECYCLE_DIR", other.directory())), quiet);
    assert_eq!(line(app.command(&["check"]).env("SIDEKIQ_LIFECYCLE_DIR", "")), "ready\n", "as if it were not set");
    let directory = other.directory();
    let mut command = app.command(&["check", "--dir", directory.to_str().unwrap()]);
    assert_eq!(line(command.env("SIDEKIQ_LIFECYCLE_DIR", third.directory())), quiet);
    let relative =
        app.command(&["check", "--dir", "sidekiq"]).current_dir(other.0.path().join("tmp")).output().unwrap();
    assert_eq!(String::from_utf8(relative.stdout).unwrap(), quiet);
}

#[test]
fn a_directory_whose_name_is_not_utf_8() {
    let app = App::new();
    let name = OsString::from_vec(b"caf\xe9".to_vec());
    publish(&app.0.path().join(&name), &living(State::Running));
    assert_eq!(app.call(&[OsStr::new("check"), OsStr::new("--dir"), &name]), yes("ready"));
    let (code, json, _) = app.call(&[OsStr::new("status"), OsStr::new("--json"), OsStr::new("--dir"), &name]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert!(code == 0 && report["directory"].as_str().unwrap().ends_with("/caf\u{fffd}"));
}

#[test]
fn path_is_where_the_command_lies() {
    assert_eq!(App::new().call(&["path"]), yes(env!("CARGO_BIN_EXE_sidekiq-lifecycle")));
}

// ---- status ----

#[test]
fn status_is_a_table_for_people() {
    let app = App::new();
    let nobody = format!("No Sidekiq has registered in {}.", app.directory().display());
    assert_eq!(app.call(&["status"]), yes(&nobody));
    let mut running = living(State::Running);
    running.busy = 3;
    running.problems = vec![problem("the disk is full")];
    let dead = gone(State::Quiet);
    let mut ended = gone(State::Stopped);
    ended.exit_status = Some(143);
    ended.why = Some("SIGTERM".to_owned());
    ended.about = About::default();
    for record in [&running, &dead, &ended] {
        app.publish(record);
    }
    let unreadable = gone(State::Running).identity.pid;
    fs::write(app.directory().join("processes").join(unreadable.to_string()), "{").unwrap();
    let (code, table, error) = app.call(&["status"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    let pid = |record: &Record| record.identity.pid.to_string();
    let row = |pid: String| rows.iter().find(|row| row[0] == pid).unwrap();
    assert_eq!(rows[0], ["PID", "STATE", "SINCE", "BUSY", "BEAT", "SIDEKIQ", "TAG", "WHY"]);
    let cells = row(pid(&running));
    assert_eq!([cells[1], cells[3], cells[5], cells[6], cells[7]], ["running", "3/5", "8.1.7", "shop", "-"]);
    assert!(cells[2].ends_with(" ago") && cells[4].ends_with(" ago"));
    assert_eq!(row(pid(&dead))[1], "gone (was quiet)");
    assert_eq!(row(pid(&ended))[5..], ["-", "-", "exit 143, SIGTERM"]);
    let gone = format!("process {unreadable} is gone");
    assert_eq!(row(unreadable.to_string())[1..], ["?", "-", "-", "-", "-", "-", gone.as_str()]);
    assert_eq!(rows[5], [format!("{}: the disk is full", running.identity.pid)]);
}

#[test]
fn status_that_cannot_be_told_fails_on_standard_error() {
    let app = App::new();
    fs::create_dir(app.0.path().join("tmp")).unwrap();
    fs::write(app.directory(), "").unwrap();
    for arguments in [&["status"][..], &["status", "--json"]] {
        let (code, out, error) = app.call(arguments);
        assert_eq!((code, out.as_str(), error.lines().count()), (1, "", 1));
        assert!(error.starts_with("sidekiq-lifecycle: ") && error.contains(" is not a directory"), "{error}");
    }
}

#[test]
fn that_nobody_hears_what_is_wrong_is_no_failure_of_its_own() {
    let app = App::new();
    fs::create_dir(app.0.path().join("tmp")).unwrap();
    fs::write(app.directory(), "").unwrap();
    for arguments in [&["status"][..], &["status", "--watch"]] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(app.command(arguments).stderr(full()).status().unwrap().code(), Some(1), "{arguments:?}");
    }
    let full = || File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(app.command(&["path"]).stdout(full()).stderr(full()).status().unwrap().code(), Some(1));
}

fn problem(message: &str) -> Problem {
    Problem { code: "directory".to_owned(), message: message.to_owned() }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn status_is_json_for_machines() {
    let app = App::with(&living(State::Running));
    let (code, json, error) = app.call(&["status", "--json"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(keys(&report), ["directory", "drained", "live", "processes", "ready", "schema"]);
    assert_eq!(report["schema"], 2);
    assert_eq!(report["directory"], app.directory().to_str().unwrap());
    assert_eq!([&report["ready"], &report["live"], &report["drained"]], [true, true, false]);
    let process = &report["processes"][0];
    assert_eq!(keys(process), ["beat_age", "drained", "exists", "live", "pid", "ready", "record"]);
    assert_eq!(process["pid"], std::process::id());
    assert_eq!([&process["exists"], &process["ready"], &process["live"]], [true; 3]);
    assert!(process["beat_age"].is_f64());
    // A new key is a new promise; one that goes, or means something else, is a new schema.
    let promised = [
        "beat",
        "beat_monotonic",
        "boot_id",
        "busy",
        "company",
        "concurrency",
        "drained",
        "ecs_task_protected",
        "embedded",
        "exit_status",
        "hooks",
        "http",
        "interrupted_jobs",
        "jobs",
        "lost_jobs",
        "never_drains",
        "pid",
        "pid_namespace",
        "problems",
        "put_back_jobs",
        "ready_file",
        "rearmed",
        "ruby",
        "schema",
        "sidekiq",
        "signal_path",
        "since",
        "start_time",
        "state",
        "stop_timeout",
        "stops_when_drained",
        "tag",
        "time",
        "timeout",
        "timings",
        "version",
        "why",
        "withheld",
    ];
    assert_eq!(keys(&process["record"]), promised);
    let since: &str = process["record"]["since"].as_str().unwrap();
    assert!(since.ends_with('Z') && since.parse::<jiff::Timestamp>().is_ok(), "{since}");
}

#[test]
fn json_of_nobody_and_of_what_cannot_be_read() {
    let app = App::new();
    let report = || -> Value { serde_json::from_str(&app.call(&["status", "--json"]).1).unwrap() };
    assert_eq!(report()["processes"], Value::Array(Vec::new()));
    assert_eq!(report()["ready"], false);
    let pid = std::process::id();
    fs::create_dir_all(app.directory().join("processes")).unwrap();
    fs::write(app.directory().join("processes").join(pid.to_string()), "").unwrap();
    let report = report();
    let process = &report["processes"][0];
    assert_eq!(keys(process), ["beat_age", "drained", "exists", "live", "pid", "ready", "record", "unreadable"]);
    assert_eq!((&process["exists"], &process["record"]), (&Value::Bool(true), &Value::Null));
    assert!(process["unreadable"].as_str().unwrap().starts_with("EOF"));
    assert_eq!(report["live"], false);
}

// ---- colour ----

fn on_a_terminal(command: &mut Command) -> String {
    let terminal = openpty(None, None).unwrap();
    let mut child = command.stdout(terminal.slave).spawn().unwrap();
    command.stdout(Stdio::null()); // Which closes our own end.
    let mut text = Vec::new();
    // The last end closed is an error to a terminal's reader (EIO), not the end of a file.
    let _ = File::from(terminal.master).read_to_end(&mut text);
    child.wait().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let app = App::with(&living(State::Running));
    assert!(on_a_terminal(&mut app.command(&["status"])).contains("\u{1b}[32m"));
    assert!(!on_a_terminal(app.command(&["status"]).env("NO_COLOR", "1")).contains('\u{1b}'));
    assert!(!on_a_terminal(&mut app.command(&["check"])).contains('\u{1b}'));
    assert!(!on_a_terminal(&mut app.command(&["status", "--json"])).contains('\u{1b}'));
    assert!(!app.call(&["status"]).1.contains('\u{1b}'));
    assert!(!app.call(&["--help"]).1.contains('\u{1b}'));
}

// ---- watched ----

#[cfg(target_os = "linux")]
mod watched {
    use std::process::Child;
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::pty::Winsize;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use sidekiq_lifecycle::sys::procfs::Snapshot;

    use super::*;

    /// A `status --watch` at a terminal of its own, and all that it has shown.
    struct Watched {
        child: Child,
        shown: Arc<Mutex<String>>,
    }

    impl Watched {
        fn start(command: &mut Command) -> Self {
            let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
            let terminal = openpty(Some(&size), None).unwrap();
            let child = command.stdout(terminal.slave).spawn().unwrap();
            command.stdout(Stdio::null()); // Which closes our own end.
            let shown = Arc::new(Mutex::new(String::new()));
            let (mut master, kept) = (File::from(terminal.master), Arc::clone(&shown));
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(size @ 1..) = master.read(&mut bytes) {
                    kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..size]));
                }
            });
            Self { child, shown }
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.child.id()).unwrap()
        }

        fn signal(&self, signal: Signal) {
            kill(Pid::from_raw(self.pid()), signal).unwrap();
        }

        fn wait_until(&self, what: impl Fn(&str) -> bool) {
            let began = Instant::now();
            while !what(&self.shown.lock().unwrap()) {
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", self.shown.lock().unwrap());
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    const LEFT: &str = "\u{1b}[?1049l";

    #[test]
    fn a_terminal_is_given_back_for_as_long_as_the_watching_pauses_and_when_it_ends() {
        let app = App::with(&living(State::Running));
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            let mut watched = Watched::start(&mut app.command(&["status", "--watch"]));
            watched.wait_until(|shown| shown.contains("running"));
            watched.signal(Signal::SIGTSTP);
            watched.wait_until(|shown| shown.ends_with(LEFT));
            watched.wait_until(|_| Snapshot::of(watched.pid()).unwrap().state == 'T');
            watched.signal(Signal::SIGCONT);
            watched.wait_until(|shown| shown.rsplit(LEFT).next().unwrap().contains("running"));
            watched.signal(signal);
            assert_eq!(watched.child.wait().unwrap().code(), Some(0));
            watched.wait_until(|shown| shown.ends_with(LEFT));
        }
    }

    #[test]
    fn a_terminal_that_can_do_nothing_is_asked_for_nothing() {
        let app = App::with(&living(State::Running));
        let mut watched = Watched::start(app.command(&["status", "--watch"]).env("TERM", "dumb"));
        watched.wait_until(|shown| shown.contains("running"));
        watched.signal(Signal::SIGINT);
        assert_eq!(watched.child.wait().unwrap().code(), Some(0));
        assert!(!watched.shown.lock().unwrap().contains('\u{1b}'));
    }

    #[test]
    fn watching_ends_with_its_reader_though_nothing_changes() {
        let app = App::with(&living(State::Running));
        for arguments in [&["status", "--watch"][..], &["status", "--watch", "--json"]] {
            let mut child = app.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.take().unwrap().read_exact(&mut [0; 20]).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}

// ---- misuse, and help ----

#[test]
fn misuse_is_exit_2_and_says_what_would_be_right() {
    let app = App::with(&living(State::Running));
    for (arguments, hints) in [
        (&[][..], &["Usage: sidekiq-lifecycle <COMMAND>", "Examples:"][..]),
        (&["chek"], &["unrecognized subcommand 'chek'", "'check'"]),
        (&["check", "redy"], &["invalid value 'redy'", "ready, live, drained"]),
        (&["check", "ready", "live"], &["unexpected argument 'live'"]),
        (&["check", "--dir"], &["a value is required for '--dir <DIR>'"]),
        (&["check", "--dir", ""], &["a value is required for '--dir <DIR>'"]),
        (&["check", "--max-age", "0"], &["write a time above 0"]),
        (&["check", "--max-age=-1"], &["write a time, such as"]),
        (&["check", "--max-age", "1e999"], &["write a time, such as"]),
        (&["check", "--max-age", "soon"], &["write a time, such as"]),
        (&["check", "--json"], &["unexpected argument '--json'"]),
        (&["status", "ready"], &["unexpected argument 'ready'"]),
    ] {
        let (code, out, error) = app.call(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        for hint in hints {
            assert!(error.contains(hint), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn help_has_examples_that_work_and_the_exit_codes() {
    // Of one that has ended: the examples tell Sidekiqs to stop, and one that lives would be this test.
    let app = App::with(&gone(State::Stopped));
    let (code, help, _) = app.call(&["--help"]);
    assert_eq!(code, 0);
    assert!(help.contains(
        "Exit codes: 0 yes, 1 no (the reason is printed), 2 misuse, 3 could not tell (doctor), 124 timed out"
    ));
    let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  sidekiq-lifecycle ")).collect();
    assert!(examples.len() >= 4, "{help}");
    for example in examples {
        let words = example.split("   ").next().unwrap().split_whitespace();
        let arguments: Vec<&str> = words.collect();
        assert_ne!(app.call(&arguments).0, 2, "{example}");
    }
    for subcommand in ["check", "status", "quiet", "stop", "wait", "path", "completions", "man"] {
        let (code, help, _) = app.call(&[subcommand, "--help"]);
        assert!(code == 0 && help.contains(&format!("Usage: sidekiq-lifecycle {subcommand}")), "{help}");
    }
}

#[test]
fn the_version_is_the_crates() {
    assert_eq!(App::new().call(&["--version"]), yes(&format!("sidekiq-lifecycle {}", sidekiq_lifecycle::VERSION)));
}
