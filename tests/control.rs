//! `quiet`, `stop`, `wait` and what else the command does to processes, with processes that are no Sidekiqs but have
//! the records of such.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sidekiq_lifecycle::model::job::Job;
use sidekiq_lifecycle::model::signal_path::Handling;
use sidekiq_lifecycle::model::state::State;
use sidekiq_lifecycle::store::directory::Directory;
use sidekiq_lifecycle::store::files::Durability;
use sidekiq_lifecycle::store::record::{About, Record};
use sidekiq_lifecycle::sys::identity;
use sidekiq_lifecycle::sys::procfs::Snapshot;
use tempfile::TempDir;

mod support;
use support::undisturbed;

struct App {
    home: TempDir,
    workers: Vec<Child>,
}

impl Drop for App {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Ends at TERM, and is not stopped by TSTP.
const WORKER: &str = "trap 'exit 0' TERM; trap : TSTP; while :; do sleep 0.02; done";
/// Ends at TERM when the test has called [`App::let_end`].
const SLOW: &str =
    "trap 'until [ -e end ]; do sleep 0.02; done; exit 0' TERM; trap : TSTP; while :; do sleep 0.02; done";
/// Ends at nothing.
const STUBBORN: &str = "trap '' TERM; trap : TSTP; while :; do sleep 0.02; done";

impl App {
    fn new() -> Self {
        Self { home: TempDir::new().unwrap(), workers: Vec::new() }
    }

    fn directory(&self) -> Directory {
        Directory::new(&self.home.path().join("tmp/sidekiq"), None)
    }

    /// Starts a process and waits until it has its traps, and registers it.
    fn start(&mut self, script: &str, state: State) -> Record {
        let mut command = undisturbed("sh");
        command.args(["-c", script]).current_dir(&self.home).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.workers.push(child);
        wait_until(|| Snapshot::of(pid).unwrap().handling(Signal::SIGTSTP) == Handling::Handled);
        let mut record = Record::new(About::default(), None);
        record.identity.pid = pid;
        record.identity.start_time = identity::start_time(pid);
        record.record_heartbeat();
        record.enter(state, None);
        self.publish(&record);
        record
    }

    fn publish(&self, record: &Record) {
        self.directory().open().unwrap().publish_record(record, Durability::Whole).unwrap();
    }

    fn let_end(&self) {
        fs::write(self.home.path().join("end"), "").unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = undisturbed(env!("CARGO_BIN_EXE_sidekiq-lifecycle"));
        command.args(line.split_whitespace()).current_dir(&self.home).env_remove("SIDEKIQ_LIFECYCLE_DIR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Exit code, and the last line.
    fn call(&self, line: &str) -> (i32, String) {
        ended(self.command(line).output().unwrap())
    }
}

fn ended(output: Output) -> (i32, String) {
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text.trim_end().to_owned())
}

fn wait_until(mut what: impl FnMut() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Without the times.
fn timeless(line: &str) -> String {
    line.split(" after ").next().unwrap().to_owned()
}

#[test]
fn one_that_drains_is_noticed_by_its_record_alone() {
    let mut app = App::new();
    let mut record = app.start(WORKER, State::Running);
    let mut waiting = app.command("wait drained --timeout 5m").spawn().unwrap();
    // Each line is another message: it has read each record.
    let mut said = Vec::new();
    let mut error = waiting.stderr.take().unwrap();
    let mut byte = [0; 1];
    while !said.ends_with(b"0 of 1 drained\n") {
        error.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    record.enter(State::Quiet, None);
    record.busy = 2;
    app.publish(&record);
    while !said.ends_with(b"0 of 1 drained, 2 jobs running\n") {
        error.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    record.mark_drained();
    app.publish(&record);
    let (code, line) = ended(waiting.wait_with_output().unwrap());
    assert_eq!((code, timeless(&line).as_str()), (0, "drained"));
}

#[test]
fn what_has_been_killed_is_said() {
    let mut app = App::new();
    let record = app.start(STUBBORN, State::Running);
    let pid = record.identity.pid;
    assert_eq!(
        app.call("stop --timeout 0.3s --kill-after 5m"),
        (
            124,
            format!(
                "timed out after 0 s, not stopped: process {pid} is running; SIGTERM was sent to process {pid}: to keep waiting, run sidekiq-lifecycle wait stopped"
            )
        )
    );
    let output = app.command("stop --kill-after 0.2s").output().unwrap();
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(ended(output), (1, format!("killed process {pid}: any running jobs are lost")));
    assert!(error.contains(&format!("process {pid} has not ended within 0 s of SIGTERM: killed\n")), "{error}");
}

#[test]
fn a_quiet_process_gets_no_signal() {
    let mut app = App::new();
    let states = [State::Running, State::Quiet, State::Stopping];
    let [running, quiet, stopping] = states.map(|state| app.start(WORKER, state).identity.pid);
    let said = format!(
        "sent SIGTSTP to process {running}; already quiet: process {quiet}; already stopping: process {stopping}"
    );
    assert_eq!(app.call("quiet"), (0, said));
}

#[test]
fn only_those_that_live_stay_quiet() {
    let mut app = App::new();
    let [first, second, killed] = [(); 3].map(|()| app.start(WORKER, State::Quiet).identity.pid);
    let mut waiting = app.command("quiet --wait").spawn().unwrap();
    waiting.stderr.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    app.workers[2].kill().unwrap();
    app.workers[2].wait().unwrap();
    kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), Signal::SIGINT).unwrap();
    let (code, line) = ended(waiting.wait_with_output().unwrap());
    assert_eq!(code, 130);
    assert!(line.contains(&format!("process {killed} is gone; ")), "{line}");
    let told = [(first, second), (second, first)]
        .map(|(one, other)| line.contains(&format!("; 2 processes ({one}, {other}) stay quiet: ")));
    assert!(told.contains(&true) && line.ends_with("to stop them, run sidekiq-lifecycle stop"), "{line}");
}

#[test]
fn one_that_is_quiet_is_waited_for_in_vain_and_that_is_said() {
    let mut app = App::new();
    let pid = app.start(WORKER, State::Quiet).identity.pid;
    let output = app.command("wait ready --timeout 0.3s").output().unwrap();
    let why = format!("process {pid} is quiet and will not be ready again: stop it");
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("0 of 1 ready, {why}\n"));
    assert_eq!(ended(output), (124, format!("timed out after 0 s: {why}")));
}

#[test]
fn what_was_lost_with_the_killed_is_said_of_each() {
    let mut app = App::new();
    let [drained, first, second] = [(true, 0), (false, 2), (false, 1)].map(|(drained, busy)| {
        let mut record = app.start(STUBBORN, State::Running);
        (record.drained, record.busy) = (drained, busy);
        app.publish(&record);
        record.identity.pid
    });
    let (code, line) = app.call("stop --kill-after 0.1s");
    assert_eq!(code, 1);
    let orders = [(first, second), (second, first)].map(|(one, other)| {
        format!(
            "killed 2 processes ({one}, {other}): their running jobs are lost; killed process {drained}: it had no jobs"
        )
    });
    assert!(orders.contains(&line), "{line}");
}

#[test]
fn jobs_that_were_cut_off_are_said_to_people_and_machines() {
    let mut app = App::new();
    let mut record = app.start(SLOW, State::Running);
    let pid = record.identity.pid;
    let mut stopping = app.command("stop --json").spawn().unwrap();
    stopping.stderr.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    record.enter(State::Stopped, Some("SIGTERM".to_owned()));
    let job = |jid: &str| Job { class: Some("HardJob".into()), jid: Some(jid.into()), ..Job::default() };
    record.record_unfinished(vec![job("01"), job("02")], vec![]);
    app.publish(&record);
    app.let_end();
    let (code, json) = ended(stopping.wait_with_output().unwrap());
    let report: Value = serde_json::from_str(&json).unwrap();
    let reason = report["reason"].as_str().unwrap();
    let end = format!(
        "process {pid}; process {pid}: 2 jobs interrupted at Sidekiq's shutdown timeout and pushed back to Redis: \
         HardJob 01, HardJob 02"
    );
    assert_eq!((code, report["outcome"].as_str()), (0, Some("reached")));
    assert!(reason.ends_with(&end), "{reason}");
}

#[test]
fn jobs_that_were_lost_make_it_no_good_end() {
    let mut app = App::new();
    let mut record = app.start(SLOW, State::Running);
    let pid = record.identity.pid;
    let mut stopping = app.command("stop").spawn().unwrap();
    stopping.stderr.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    record.enter(State::Stopped, Some("SIGTERM".to_owned()));
    let job = |jid: &str, queue: &str| Job::started("HardJob", jid, queue, record.since);
    let lost = Job { running_for: Some(25.0), ..job("01", "low") };
    record.record_unfinished(vec![lost.clone(), Job { running_for: Some(1.0), ..job("02", "low") }], vec![lost]);
    app.publish(&record);
    app.let_end();
    let (code, line) = ended(stopping.wait_with_output().unwrap());
    let end = format!(
        ": process {pid}; process {pid}: 2 jobs interrupted at Sidekiq's shutdown timeout: HardJob 01 (queue low, \
         running for 25 s), HardJob 02 (queue low, running for 1 s); process {pid}: 1 job lost, because Redis did not take it \
         back: HardJob 01 (queue low, running for 25 s)"
    );
    assert_eq!((code, line.ends_with(&end)), (1, true), "{line}");
}

#[test]
fn nobody_waits_for_one_that_can_never_drain() {
    let mut app = App::new();
    let mut record = app.start(WORKER, State::Quiet);
    record.never_drains = Some("a thread has died".to_owned());
    app.publish(&record);
    let pid = record.identity.pid;
    let never = format!("not drained: process {pid} is quiet, and can never drain: a thread has died");
    for line in ["check drained", "wait drained", "quiet --wait"] {
        assert_eq!(app.call(line), (1, never.clone()), "{line}");
    }
    let (code, line) = app.call("stop --drain-first");
    assert_eq!(code, 1);
    assert!(line.starts_with(&format!("{never}; stopped after ")), "{line}");
    assert!(app.workers[0].wait().unwrap().success());
}

#[test]
fn a_pid_that_is_anothers_by_now_is_told_nothing() {
    let mut app = App::new();
    let mut record = app.start(WORKER, State::Running);
    let pid = record.identity.pid;
    record.identity.start_time = record.identity.start_time.map(|ticks| ticks - 1);
    app.publish(&record);
    assert_eq!(app.call("quiet"), (1, format!("not quiet: process {pid} is gone")));
    assert_eq!(app.call("stop --kill-after 0.1s"), (0, format!("stopped already: process {pid} is gone")));
    assert_eq!(app.call(&format!("stop --pid {pid}")), (1, format!("process {pid} (sh) is not a Sidekiq")));
    assert!(app.workers[0].try_wait().unwrap().is_none());
}

#[test]
fn one_that_has_ended_is_answered_for_as_if_it_had_ended_a_moment_later() {
    let on_the_way = ["wait quiet", "wait drained", "quiet --wait"];
    for drained in [true, false] {
        let mut app = App::new();
        let mut record = app.start(WORKER, State::Quiet);
        record.drained = drained;
        app.publish(&record);
        let pid = record.identity.pid;
        let code = i32::from(!drained);
        // Whether this is in time to see it live or not.
        let waiting = app.command("wait drained").spawn().unwrap();
        app.workers[0].kill().unwrap();
        app.workers[0].wait().unwrap();
        assert_eq!(ended(waiting.wait_with_output().unwrap()).0, code);
        let table = on_the_way.map(|line| (line, code)).into_iter().chain([("wait stopped", 0), ("stop", 0)]);
        for (line, code) in table {
            for line in [line.to_owned(), format!("{line} --pid {pid}")] {
                let (said, text) = app.call(&line);
                assert_eq!((said, text.ends_with(&format!(": process {pid} is gone"))), (code, true), "{line}: {text}");
            }
        }
        let gone = format!("not ready: process {pid} is gone");
        assert_eq!(app.call(&format!("wait ready --pid {pid}")), (1, gone));
        let report: Value = serde_json::from_str(&app.call("stop --json").1).unwrap();
        assert!(report["processes"][0]["directory"].as_str().unwrap().ends_with("/tmp/sidekiq"), "{report}");
    }
}

#[test]
fn a_process_that_a_tstp_would_freeze_is_not_sent_one_nor_is_any_other() {
    let mut app = App::new();
    let other = app.start(WORKER, State::Running);
    for embedded in [true, false] {
        let deaf = Command::new("sleep").arg("3600").spawn().unwrap();
        let mut record = other.clone();
        record.identity.pid = i32::try_from(deaf.id()).unwrap();
        record.identity.start_time = identity::start_time(record.identity.pid);
        record.about.embedded = embedded;
        app.workers.push(deaf);
        app.publish(&record);
        let pid = record.identity.pid;
        let refusal = match embedded {
            true => format!(
                "process {pid} is a program that embeds Sidekiq, and SIGTSTP would suspend it; quiet Sidekiq from within it \
                 (no signal was sent)"
            ),
            false => format!(
                "process {pid} has not installed its signal handlers yet, and SIGTSTP would suspend it; wait until it is \
                 ready (no signal was sent)"
            ),
        };
        assert_eq!(app.call("quiet"), (1, refusal.clone()));
        let (code, line) = app.call("stop --drain-first");
        assert_eq!((code, line == refusal), (1, !embedded), "{line}");
        assert_eq!(Snapshot::of(pid).unwrap().state, 'S');
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        app.workers.last_mut().unwrap().wait().unwrap();
    }
    assert!(app.workers[0].try_wait().unwrap().is_none());
}

#[test]
fn a_program_that_sidekiq_is_embedded_in_is_not_ended_nor_is_any_other() {
    let mut app = App::new();
    app.start(WORKER, State::Running);
    let mut record = app.start(WORKER, State::Running);
    record.about.embedded = true;
    app.publish(&record);
    let pid = record.identity.pid;
    let refusal = format!(
        "process {pid} is a program that embeds Sidekiq, and SIGTERM might end it before its jobs have finished; stop Sidekiq \
         from within it, or send kill -TERM {pid} if the program stops Sidekiq then (no signal was sent)"
    );
    for line in ["stop", "stop --drain-first", "stop --kill-after 0.1s"] {
        assert_eq!(app.call(line), (1, refusal.clone()), "{line}");
    }
    assert!(app.workers.iter_mut().all(|worker| worker.try_wait().unwrap().is_none()));
}

#[test]
fn the_time_is_for_the_drain_and_the_end_together() {
    let mut app = App::new();
    let mut record = app.start(STUBBORN, State::Quiet);
    record.mark_drained();
    app.publish(&record);
    let (code, line) = app.call("stop --drain-first --timeout 0.5s");
    assert_eq!(code, 124, "{line}");
    assert!(line.starts_with("timed out after 0 s, not stopped: "), "{line}");
}

#[test]
fn a_record_that_cannot_be_read_is_no_reason_to_guess() {
    let mut app = App::new();
    let pid = app.start(WORKER, State::Running).identity.pid;
    fs::write(app.home.path().join("tmp/sidekiq/processes").join(pid.to_string()), "{").unwrap();
    let (code, line) = app.call("stop");
    assert_eq!(code, 1);
    assert!(line.starts_with(&format!("the record of process {pid} cannot be read: EOF")), "{line}");
    assert!(line.ends_with(&format!("; use --pid {pid} to signal it anyway")), "{line}");
    assert!(app.workers[0].try_wait().unwrap().is_none());
}

#[test]
fn a_signal_ends_the_waiting_only() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut app = App::new();
        let pid = app.start(STUBBORN, State::Running).identity.pid;
        let mut waiting = app.command("stop --json").spawn().unwrap();
        let mut first = [0; 1];
        waiting.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
        kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), signal).unwrap();
        let (ended_with, json) = ended(waiting.wait_with_output().unwrap());
        let report: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((ended_with, report["outcome"].as_str()), (code, Some("interrupted")));
        let reason = report["reason"].as_str().unwrap();
        assert!(reason.ends_with(&format!(
            "SIGTERM was sent to process {pid}: to keep waiting, run sidekiq-lifecycle wait stopped"
        )));
        assert_eq!(report["processes"][0]["pid"], pid);
    }
}

#[test]
fn how_long_ready_was_waited_for_is_said_as_of_the_end() {
    let app = App::new();
    let mut waiting = app.command("wait ready").spawn().unwrap();
    waiting.stderr.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), Signal::SIGINT).unwrap();
    let (code, line) = ended(waiting.wait_with_output().unwrap());
    assert!(code == 130 && line.starts_with("interrupted after ") && !line.contains(" after 0 s"), "{line}");
}

#[test]
fn a_hundred_are_waited_for_at_once() {
    let mut app = App::new();
    let records: Vec<Record> = (0..100).map(|_| app.start(WORKER, State::Running)).collect();
    let (code, line) = app.call("stop");
    assert_eq!((code, timeless(&line).as_str()), (0, "stopped"));
    assert!(line.contains("100 processes ("), "{line}");
    for record in records {
        assert!(!identity::exists(record.identity.pid) || Snapshot::of(record.identity.pid).unwrap().has_ended());
    }
}

/// 9 is where two of five would fit.
#[test]
fn nobody_is_left_out_where_too_few_files_may_be_open() {
    for files in 4..=16 {
        let mut app = App::new();
        let living: Vec<i32> = (0..5).map(|_| app.start(WORKER, State::Running).identity.pid).collect();
        let script = format!("ulimit -n {files}; exec {} stop", env!("CARGO_BIN_EXE_sidekiq-lifecycle"));
        let output = Command::new("sh").args(["-c", &script]).current_dir(&app.home).output().unwrap();
        let (code, line) = ended(output);
        assert!(line.contains("Too many open files"), "{files}: {line}");
        assert_eq!(code, 1, "{files}: {line}");
        assert!(living.into_iter().all(|pid| !Snapshot::of(pid).unwrap().has_ended()), "{files}");
    }
}

// ---- made of the command's own definition ----

#[test]
fn the_manual_has_every_subcommand_as_a_section_and_completions_know_them() {
    let app = App::new();
    let (code, page) = app.call("man");
    assert_eq!(code, 0);
    assert!(page.contains(".TH sidekiq-lifecycle 1"));
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = app.call(&format!("completions {shell}"));
        assert_eq!(code, 0);
        for subcommand in ["check", "status", "quiet", "stop", "wait", "run", "doctor", "path", "completions", "man"] {
            assert!(sections.contains(&subcommand.to_uppercase().as_str()), "{subcommand}: {sections:?}");
            assert!(script.contains(subcommand), "{shell} {subcommand}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        let script: PathBuf = app.home.path().join(shell);
        fs::write(&script, app.call(&format!("completions {shell}")).1).unwrap();
        if let Ok(checked) = Command::new(shell).arg("-n").arg(&script).status() {
            assert!(checked.success(), "{shell} reads it");
        }
    }
}

#[test]
fn bash_completes_what_comes_next() {
    let app = App::new();
    for (words, expected) in [
        ("sidekiq-lifecycle st", "status stop"),
        ("sidekiq-lifecycle check d", "drained"),
        ("sidekiq-lifecycle generate comp", "compose"),
        ("sidekiq-lifecycle fleet q", "quiet"),
        ("sidekiq-lifecycle fleet stop --b", "--batch --by"),
    ] {
        let asks = format!(
            "eval \"$SCRIPT\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             $(complete -p sidekiq-lifecycle | sed 's/.*-F \\([^ ]*\\).*/\\1/') sidekiq-lifecycle \
             \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[*]}}\""
        );
        let script = app.call("completions bash").1;
        let Ok(output) = Command::new("bash").args(["-c", &asks]).env("SCRIPT", script).output() else { return };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{words}");
    }
}

#[test]
fn the_manual_leaves_examples_as_they_are() {
    let page = App::new().call("man").1;
    assert!(page.contains(".SS EXAMPLES\n.nf\n  sidekiq\\-lifecycle stop\n"), "{page}");
    assert_eq!(page.matches("\n.nf").count(), page.matches("\n.fi").count());
    assert!(!page.contains("Examples:"));
}

// ---- misuse ----

#[test]
fn misuse_is_exit_2() {
    let app = App::new();
    for (line, hint) in [
        ("wait", "<GOAL>"),
        ("wait done", "ready, quiet, drained, stopped"),
        ("quiet --timeout 10m", "--wait"),
        ("stop --timeout soon", "write a time, such as 90s, 10m, 1h30m, or plain seconds"),
        ("stop --kill-after 0", "write a time above 0"),
        ("stop --pid 0", "0 is not in 1.."),
        ("stop --pid 7 --all", "cannot be used with"),
        ("quiet --dir x --all", "cannot be used with"),
        ("status --pid 7 --dir x", "cannot be used with"),
        ("completions powershell", "bash, zsh, fish"),
    ] {
        let output = app.command(line).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(error.contains(hint), "{line}: {error}");
    }
}
