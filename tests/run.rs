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

mod support;
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

// ---- which signal reaches whom ----

/// Nothing would continue it, and the container would never end.
#[test]
fn a_program_that_does_not_handle_the_signal_is_not_suspended() {
    for place in places() {
        let home = Home::new();
        let script = "$SIG{TERM} = sub { exit 5 }; open my $out, '>', 'log'; sleep 1 while -e 'log'";
        let run = home.start(place, &["-v"], &["perl", "-e", script]);
        wait_for("the program", || home.0.path().join("log").exists().then_some(()));
        for signal in [Signal::SIGTTIN, Signal::SIGTSTP, Signal::SIGTTOU] {
            run.send(signal);
            let line = format!("{signal} dropped: no process here handles it");
            let said = || fs::read_to_string(home.0.path().join("stderr")).unwrap();
            wait_for(&line, || said().contains(&line).then_some(()));
        }
        run.send(Signal::SIGTERM);
        let (code, said) = run.end();
        assert_eq!(code, 5, "{place:?} {said}");
    }
}

#[test]
fn every_signal_reaches_the_worker_below_whatever() {
    let numbers = (1..=64).filter(|n| ![4, 5, 6, 7, 8, 9, 11, 13, 15, 17, 19, 31, 32, 33].contains(n));
    let numbers: Vec<i32> = numbers.collect();
    for place in places() {
        for command in [
            &["./other", "log", "0"][..],
            &["sh", "-c", "./other log 0; exit $?"],
            &["bash", "-c", "./sidekiq log 0; exit $?"],
            &["bash", "-c", "timeout 100 dash -c './other log 0; exit $?'; exit $?"],
        ] {
            let home = Home::new();
            // dash has an INT handler of its own, and ends with 130 once its command has ended.
            let is_dash = command.iter().any(|word| *word == "sh" || word.contains("dash"));
            let run = home.start(place, &[], command);
            run.wait_for_note("log", "ready");
            for number in numbers.iter().filter(|n| !(is_dash && **n == 2)) {
                run.send(Number::new(*number).unwrap());
                run.wait_for_note("log", &number.to_string());
            }
            run.send(Signal::SIGTERM);
            run.wait_for_note("log", "done");
            let (noted, expected) = (
                run.notes("log"),
                numbers.iter().filter(|n| !(is_dash && **n == 2)).chain([&15]).map(ToString::to_string),
            );
            assert_eq!(signals(&noted), expected.collect::<Vec<_>>(), "{place:?} {command:?}");
            assert_eq!(run.end(), (7, String::new()), "{place:?} {command:?}");
        }
    }
}

#[test]
fn every_sidekiq_below_a_script_and_who_is_beside_them_later() {
    for place in places() {
        let home = Home::new();
        // All write to one log, so that it shows who was first.
        let script = "./sidekiq log 0 & ./sidekiq log 1 & ./other log 0 & wait; wait; wait; exit 4";
        let run = home.start(place, &[], &["sh", "-c", script]);
        wait_for("all three", || (run.notes("log").len() == 3).then_some(()));
        run.send(Signal::SIGTSTP);
        wait_for("both Sidekiqs", || (run.notes("log").len() == 5).then_some(()));
        run.send(Signal::SIGTERM);
        let log = run.home.join("log");
        assert_eq!(run.end(), (4, String::new()), "{place:?}");
        let notes = notes(&log);
        assert_eq!(notes[..7], ["ready", "ready", "ready", "20", "20", "15", "15"], "{place:?} {notes:?}");
        assert_eq!(notes[7..], ["done", "done", "15", "done"], "{place:?} {notes:?}");
    }
}

#[test]
fn a_program_around_the_worker_is_told_when_it_has_ended_and_not_before() {
    let swallows = "$SIG{TERM} = sub { $told = 1 }; $SIG{TSTP} = sub {}; if (!fork) { exec @ARGV } wait; \
        for (1 .. 600) { last if $told; select undef, undef, undef, 0.1 } exit 5";
    let kills = "$SIG{TERM} = sub { kill 15, $p; sleep 1; kill 9, $p }; $p = fork; exec @ARGV unless $p; \
        1 until waitpid($p, 0) > 0; exit $? >> 8 || $?";
    let mut table = vec![
        (vec!["perl", "-e", swallows, "./sidekiq", "log", "3"], 5),
        (vec!["perl", "-e", kills, "./sidekiq", "log", "3"], 7),
        (vec!["perl", "-e", kills, "sh", "-c", "./sidekiq log 3 | cat; exit 7"], 7),
    ];
    if nix::unistd::geteuid().is_root() {
        table.push((vec!["su", "root", "-s", "/bin/sh", "-c", "exec ./sidekiq log 3"], 7));
        table.push((vec!["runuser", "-u", "root", "--", "./sidekiq", "log", "3"], 7));
        table.push((vec!["sh", "-c", "su root -s /bin/sh -c './sidekiq log 3; exit $?'; exit $?"], 7));
    } else {
        println!("not below su and runuser: only root may start them without a password");
    }
    for place in places() {
        for (command, code) in &table {
            let home = Home::new();
            let run = home.start(place, &[], command);
            run.wait_for_note("log", "ready");
            run.send(Signal::SIGTSTP);
            run.wait_for_note("log", "20");
            run.send(Signal::SIGTERM);
            let log = run.home.join("log");
            assert_eq!(run.end(), (*code, String::new()), "{place:?} {command:?}");
            assert_eq!(notes(&log), ["ready", "20", "15", "done"], "{place:?} {command:?}");
        }
    }
}

#[test]
fn who_reads_the_workers_output_is_never_told() {
    let reader = "$SIG{TERM} = sub { $told = 1 }; 1 while <STDIN>; open F, q(>read); print F $told ? q(told) : q(end)";
    for place in places() {
        for script in [
            &format!("./sidekiq log 1 | perl -e '{reader}' -- /var/log/sidekiq; exit 7"),
            &format!("./sidekiq log 1 | sed p | perl -e '{reader}' -- -t sidekiq; exit 7"),
        ] {
            let home = Home::new();
            let run = home.start(place, &[], &["sh", "-c", script]);
            run.wait_for_note("log", "ready");
            run.send(Signal::SIGTERM);
            let home = run.home.clone();
            assert_eq!(run.end(), (7, String::new()), "{place:?} {script}");
            assert_eq!(notes(&home.join("log")), ["ready", "15", "done"], "{place:?} {script}");
            assert_eq!(notes(&home.join("read")), ["end"], "{place:?} {script}");
        }
    }
}

#[test]
fn who_is_beside_the_worker_is_told_although_the_command_has_ended() {
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &[], &["sh", "-c", "./other log 1 & ./sidekiq log 1; exit 4"]);
        wait_for("both", || (run.notes("log").len() == 2).then_some(()));
        run.send(Signal::SIGTERM);
        let log = run.home.join("log");
        let (code, said) = run.end();
        assert_eq!(code, 4, "{place:?}");
        assert!(said.contains("the command exited with 4; waiting up to 120 s for other (pid "), "{said}");
        assert_eq!(notes(&log), ["ready", "ready", "15", "done", "15", "done"], "{place:?}");
    }
}

#[test]
fn a_shell_with_a_trap_keeps_its_say() {
    let careful =
        "trap 'kill -TSTP $P; sleep 0.5; kill -TERM $P; wait $P; exit 9' TERM; ./sidekiq log 0 & P=$!; wait $P";
    let foreground = "trap 'echo cleaned >>log; exit 9' TERM; ./sidekiq log 0; exit 1";
    for place in places() {
        for shell in ["dash", "bash"] {
            for (script, expected) in
                [(careful, &["ready", "20", "15", "done"][..]), (foreground, &["ready", "15", "done", "cleaned"])]
            {
                let home = Home::new();
                let run = home.start(place, &[], &[shell, "-c", script]);
                run.wait_for_note("log", "ready");
                run.send(Signal::SIGTERM);
                run.wait_for_note("log", "done");
                let log = run.home.join("log");
                assert_eq!(run.end(), (9, String::new()), "{place:?} {shell} {script}");
                assert_eq!(notes(&log), expected, "{place:?} {shell} {script}");
            }
        }
    }
}

#[test]
fn a_shell_alone_is_never_stopped_and_ends_at_term() {
    for place in places() {
        for shell in ["dash", "bash"] {
            let home = Home::new();
            let mut line = home.command(place, &["-v"], &[shell, "-c", "echo >ready; read line; exit 3"]);
            line.stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = line.spawn().unwrap();
            wait_for("the shell", || home.0.path().join("ready").exists().then_some(()));
            let started = i32::try_from(child.id()).unwrap();
            let pid = if place == Place::Pid1 { children_of(started)[0].pid } else { started };
            send(pid, Signal::SIGTSTP.into()).unwrap();
            let mut errors = child.stderr.take().unwrap();
            let mut said = [0; 128];
            let length = errors.read(&mut said).unwrap();
            let said = String::from_utf8_lossy(&said[..length]).into_owned();
            assert!(said.starts_with("sidekiq-lifecycle run: SIGTSTP dropped: no process here handles it"), "{said}");
            assert_ne!(children_of(pid)[0].state, 'T', "{place:?} {shell}");
            send(pid, Signal::SIGTERM.into()).unwrap();
            let status = wait_for("the end", || child.try_wait().unwrap());
            assert_eq!(status.code(), Some(143), "{place:?} {shell}");
        }
    }
}

#[test]
fn signals_become_others_or_nothing() {
    for place in places() {
        let home = Home::new();
        let options = ["--signal-map", "HUP:TSTP", "-r", "USR1:", "-r", "SIGINT:0", "-r", "34:TERM", "-v"];
        let run = home.start(place, &options, &["./sidekiq", "log", "0"]);
        run.wait_for_note("log", "ready");
        for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGINT, Signal::SIGUSR2] {
            run.send(signal);
        }
        for note in ["20", "12"] {
            run.wait_for_note("log", note);
        }
        run.send(Number::new(34).unwrap());
        run.wait_for_note("log", "done");
        let mut noted = run.notes("log");
        noted.sort();
        assert_eq!(noted, ["12", "15", "20", "done", "ready"], "{place:?}");
        let (code, said) = run.end();
        assert_eq!(code, 7);
        for line in ["SIGUSR1 dropped", "SIGTSTP to sidekiq (pid "] {
            assert!(said.contains(line), "{said}");
        }
    }
}

#[test]
fn the_whole_group_if_asked() {
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &["--group"], &["sh", "-c", "./sidekiq a 0 & ./other b 0; exit 1"]);
        ["a", "b"].iter().for_each(|log| run.wait_for_note(log, "ready"));
        run.send(Signal::SIGTSTP);
        ["a", "b"].iter().for_each(|log| run.wait_for_note(log, "20"));
        wait_for("a shell that goes on", || (Snapshot::of(children_of(run.pid)[0].pid)?.state == 'S').then_some(()));
        run.send(Signal::SIGTERM);
        let (a, b) = (run.home.join("a"), run.home.join("b"));
        // The shell dies of it; the workers drain.
        assert_eq!(run.end().0, 143, "{place:?}");
        assert_eq!(notes(&a).iter().filter(|note| *note == "15").count(), 1, "{place:?}");
        assert_eq!(notes(&a).last().unwrap(), "done", "{place:?}");
        assert!(notes(&b).contains(&"15".to_owned()), "{place:?}");
    }
}

#[test]
fn what_the_group_has_stopped_beside_the_worker_goes_on() {
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &["--group"], &["bash", "-c", "./sidekiq log 0 | cat; exit 1"]);
        run.wait_for_note("log", "ready");
        let child = |name| below(run.pid).into_iter().find(|pid| Snapshot::of(*pid).is_some_and(|it| it.name == name));
        let cat = wait_for("the cat", || child("cat"));
        run.send(Signal::SIGTSTP);
        run.wait_for_note("log", "20");
        wait_for("a cat that goes on", || (Snapshot::of(cat)?.state == 'S').then_some(()));
        run.send(Signal::SIGTERM);
        // The shell dies of it; the worker drains.
        assert_eq!(run.end().0, 143, "{place:?}");
    }
}

#[test]
fn what_it_inherits_blocked_or_ignored_is_not_handed_on() {
    let home = Home::new();
    let init = env!("CARGO_BIN_EXE_sidekiq-lifecycle");
    let script = format!("trap '' HUP INT TERM TSTP TTIN TTOU CHLD USR1; exec {init} run -- ./other log 0");
    let mut line = undisturbed("bash");
    line.args(["-c", &script])
        .current_dir(&home.0)
        .stdin(Stdio::null())
        .stderr(File::create(home.0.path().join("stderr")).unwrap());
    let child = with_signals_blocked(|| line.spawn()).unwrap();
    let run = Running { pid: i32::try_from(child.id()).unwrap(), child, home: home.0.path().to_owned() };
    run.wait_for_note("log", "ready");
    // HUP stays ignored: nohup(1) goes on to mean what it means. Perl itself ignores FPE.
    let worker = &children_of(run.pid)[0];
    let ignored = |number: &i32| *number != 8 && worker.ignored.0 >> (number - 1) & 1 == 1;
    assert_eq!((worker.blocked, (1..32).filter(ignored).collect()), (Mask(0), vec![1]));
    for (signal, note) in
        [(Signal::SIGTSTP, "20"), (Signal::SIGINT, "2"), (Signal::SIGUSR1, "10"), (Signal::SIGTERM, "done")]
    {
        run.send(signal);
        run.wait_for_note("log", note);
    }
    assert_eq!(run.end(), (7, String::new()));
}

#[test]
fn the_parents_death_is_a_signal_if_asked() {
    let home = Home::new();
    let init = env!("CARGO_BIN_EXE_sidekiq-lifecycle");
    let script = format!("{init} run -p USR1 -r USR1:TERM -- ./sidekiq log 0 & wait");
    let mut parent = undisturbed("bash").args(["-c", &script]).current_dir(&home.0).spawn().unwrap();
    let log = home.0.path().join("log");
    wait_for("the worker", || notes(&log).contains(&"ready".to_owned()).then_some(()));
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for("the worker's end", || notes(&log).contains(&"done".to_owned()).then_some(()));
    assert_eq!(signals(&notes(&log)), ["15"]);
}

// ---- how it ends ----

#[test]
fn exit_codes() {
    for place in places() {
        for (options, command, code) in [
            (&[][..], "exit 0", 0),
            (&[], "exit 3", 3),
            (&[], "exit 255", 255),
            (&[], "kill -TERM $$", 143),
            (&[], "kill -KILL $$", 137),
            (&[], "kill -37 $$", 165),
            (&["--exit-code-map", "143:0"], "kill -TERM $$", 0),
            (&["-e", "3", "-e", "4:5"], "exit 3", 0),
            (&["-e", "3", "-e", "4:5"], "exit 4", 5),
        ] {
            let home = Home::new();
            let run = home.start(place, options, &["bash", "-c", command]);
            assert_eq!(run.end(), (code, String::new()), "{place:?} {options:?} {command}");
        }
    }
}

#[test]
fn commands_that_cannot_be_run_and_misuse() {
    let home = Home::new();
    fs::write(home.0.path().join("plain"), "no program").unwrap();
    fs::write(home.0.path().join("lost"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(home.0.path().join("lost"), PermissionsExt::from_mode(0o755)).unwrap();
    for (arguments, code, why) in [
        (&["--", "no-such-program"][..], 127, "cannot run 'no-such-program': there is no such program"),
        (&["--", "./lost"], 127, "cannot run './lost': there is no such program, or the interpreter"),
        (&["--", "./plain/below"], 127, "cannot run './plain/below': there is no such program"),
        (&["--", "./plain"], 126, "cannot run './plain': this user may not execute it"),
        (&["--", "/"], 126, "cannot run '/'"),
        (&[], 2, "<COMMAND>"),
        (&["--no-such-option", "--", "true"], 2, "--no-such-option"),
        (&["-r", "TERM:NOPE", "--", "true"], 2, "there is no signal 'NOPE'"),
        (&["-r", "KILL:TERM", "--", "true"], 2, "SIGKILL is never forwarded"),
        (&["-e", "300", "--", "true"], 2, "0 to 255"),
        (&["--grace", "soon", "--", "true"], 2, "write a time, such as"),
        (&["--stop-grace=-1", "--", "true"], 2, "write a time, such as"),
        (&["-p", "NOPE", "--", "true"], 2, "there is no signal 'NOPE'"),
    ] {
        let mut line = Command::new(env!("CARGO_BIN_EXE_sidekiq-lifecycle"));
        let output = line.arg("run").args(arguments).current_dir(&home.0).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {said}");
        assert!(said.contains(why), "{arguments:?} {said}");
        assert!(code == 2 || said.lines().count() == 1, "{arguments:?} {said}");
    }
}

#[test]
fn a_worker_that_outlives_the_command_drains_first() {
    for place in places() {
        for (command, code, terms) in [
            // Nobody has told it.
            ("./sidekiq log 1 & until [ -s log ]; do sleep 0.1; done; exit 3", 3, 1),
            // Its shell ends at the signal, and was to decide.
            ("trap 'exit 5' TERM; ./other log 1 & wait", 5, 1),
            // bash dies of the signal after its EXIT trap; the worker had it as well.
            ("trap 'exit 5' EXIT; ./other log 1; exit 1", 143, 1),
            // Its shell passes it on, and ends; calmly taken twice.
            ("trap 'kill $!; exit 6' TERM; ./sidekiq log 1 & wait", 6, 2),
        ] {
            let home = Home::new();
            let run = home.start(place, &[], &["bash", "-c", command]);
            run.wait_for_note("log", "ready");
            if code != 3 {
                run.send(Signal::SIGTERM);
            }
            let log = run.home.join("log");
            let (ended, said) = run.end();
            let noted = notes(&log);
            assert_eq!((ended, noted.last().unwrap().as_str()), (code, "done"), "{place:?} {command}");
            let times = noted.iter().filter(|note| *note == "15").count();
            assert!((1..=terms).contains(&times), "{place:?} {command} {noted:?}");
            assert!(said.contains(&format!("the command exited with {code}; waiting up to 120 s for ")), "{said}");
        }
    }
}

#[test]
fn signals_go_on_to_a_worker_that_drains() {
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &[], &["bash", "-c", "./sidekiq log 3 & until [ -s log ]; do sleep 0.1; done"]);
        run.wait_for_note("log", "15");
        run.send(Signal::SIGTTIN);
        run.wait_for_note("log", "21");
        let log = run.home.join("log");
        assert_eq!(run.end().0, 0, "{place:?}");
        assert_eq!(notes(&log).last().unwrap(), "done", "{place:?}");
    }
}

#[test]
fn it_ends_when_the_worker_has_even_if_others_live_on() {
    // A loop that starts its worker again, and goes on when its shell ends.
    let script = "trap 'exit 0' TERM; (while :; do ./sidekiq log 0; sleep 100; done) & wait";
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &[], &["bash", "-c", script]);
        run.wait_for_note("log", "ready");
        let group: Vec<i32> = below(run.pid);
        run.send(Signal::SIGTERM);
        let log = run.home.join("log");
        assert_eq!(run.end().0, 0, "{place:?}");
        assert_eq!(notes(&log), ["ready", "15", "done"], "{place:?}");
        end_those(&group);
    }
}

/// What a subreaper has left behind; as PID 1 nothing can be.
fn end_those(pids: &[i32]) {
    for pid in pids.iter().filter(|pid| Snapshot::of(**pid).is_some()).copied() {
        for pid in below(pid).into_iter().chain([pid]) {
            let _ = send(pid, Signal::SIGKILL.into());
        }
    }
}

#[test]
fn grace_has_an_end() {
    for place in places() {
        for (grace, said_of_it, is_told) in [("2", "still running: --grace of 2 s has passed", true), ("0", "", false)]
        {
            let home = Home::new();
            let script = "./sidekiq log 100 & until [ -s log ]; do sleep 0.1; done; exit 3";
            let run = home.start(place, &["--grace", grace], &["bash", "-c", script]);
            run.wait_for_note("log", "ready");
            let group = below(run.pid);
            let log = run.home.join("log");
            let (code, said) = run.end();
            assert_eq!(code, 3, "{place:?} {grace}");
            assert!(said.contains(said_of_it) && said.is_empty() != is_told, "{said}");
            assert_eq!(notes(&log).contains(&"15".to_owned()), is_told, "{place:?} {grace}");
            end_those(&group);
        }
    }
}

#[test]
fn what_does_not_stop_in_time_is_killed() {
    for place in places() {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            let home = Home::new();
            let options = ["--stop-grace", "0.6", "-e", "1"];
            let run = home.start(place, &options, &["sh", "-c", "./sidekiq log 100; exit 1"]);
            run.wait_for_note("log", "ready");
            let left = below(run.pid);
            assert_eq!(left.len(), 2);
            run.send(signal);
            let (code, said) = run.end();
            assert_eq!(code, 137, "{place:?} {signal}");
            assert!(said.contains("killed sh (pid ") && said.contains("--stop-grace of 0.6 s has passed"), "{said}");
            assert!(said.contains("sidekiq (pid "), "{said}");
            wait_for("all to be gone", || left.iter().all(|pid| Snapshot::of(*pid).is_none()).then_some(()));
        }
    }
}

// ---- what an init owes ----

#[test]
fn orphans_are_reaped() {
    for place in places() {
        let home = Home::new();
        let orphans = "for i in $(seq 200); do (sh -c 'sleep 0.2; echo >>orphans' &); done; exec ./sidekiq log 0";
        let run = home.start(place, &[], &["bash", "-c", orphans]);
        run.wait_for_note("log", "ready");
        let ended = home.0.path().join("orphans");
        wait_for("the orphans", || (notes(&ended).len() == 200).then_some(()));
        wait_for("no zombie", || (children_of(run.pid).len() == 1).then_some(()));
        run.send(Signal::SIGTERM);
        assert_eq!(run.end().0, 7, "{place:?}");
    }
}

#[test]
fn nothing_wakes_it_while_nothing_happens() {
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &["--stop-grace", "30"], &["sh", "-c", "./sidekiq log 0; exit $?"]);
        run.wait_for_note("log", "ready");
        let switches = || {
            let status = fs::read_to_string(format!("/proc/{}/status", run.pid)).unwrap();
            status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
        };
        // What the start has left to do is done when it has slept for a while.
        let before = wait_for("sleep", || {
            let before = switches();
            sleep(Duration::from_millis(500));
            (switches() == before).then_some(before)
        });
        sleep(Duration::from_millis(2500));
        assert_eq!(switches(), before, "{place:?}");
        assert_eq!(Snapshot::of(run.pid).unwrap().threads, 1);
        run.send(Signal::SIGTERM);
        assert_eq!(run.end().0, 7);
    }
}

// ---- the terminal ----

/// A command in a session of its own, with a terminal; what is typed goes in, what is shown comes out.
struct Terminal {
    keys: File,
    shown: PathBuf,
    child: Child,
    _home: Home,
}

impl Terminal {
    fn start(place: Place, script: impl Fn(&str) -> String) -> Self {
        let home = Home::new();
        let init = format!("{} run", env!("CARGO_BIN_EXE_sidekiq-lifecycle"));
        let init = if place == Place::Pid1 { format!("unshare {} {init}", NAMESPACE.join(" ")) } else { init };
        let pty = openpty(None, None).unwrap();
        let slave = File::from(pty.slave);
        let mut line = undisturbed("setsid");
        line.args(["--ctty", "--wait", "bash", "-c", &script(&init)]).current_dir(&home.0);
        line.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = line.spawn().unwrap();
        let shown = home.0.path().join("shown");
        let (mut screen, mut copy) = (File::from(pty.master), File::create(&shown).unwrap());
        let keys = screen.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut screen, &mut copy));
        Self { keys, shown, child, _home: home }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.shown.with_file_name("log")
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    fn wait_for_note(&self, note: &str) {
        wait_for(note, || notes(&self.log()).iter().any(|line| line == note).then_some(()));
    }

    fn wait_for_text(&self, text: &str) {
        wait_for(text, || fs::read_to_string(&self.shown).is_ok_and(|shown| shown.contains(text)).then_some(()));
    }

    fn end(mut self) -> i32 {
        wait_for("the end", || self.child.try_wait().unwrap()).code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        end_those(&[self.pid()]);
    }
}

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";

#[test]
fn ctrl_c_and_ctrl_z_reach_the_worker_where_no_shell_could_continue_it() {
    for place in places() {
        for shell in ["dash", "bash"] {
            // The shell stands before run, or run is the session's leader.
            for exec in ["", "exec "] {
                let worker = "./sidekiq log 0; exit \\$?";
                let mut terminal =
                    Terminal::start(place, |init| format!("{exec}{init} -- {shell} -c \"{worker}\"; exit $?"));
                terminal.wait_for_note("ready");
                terminal.press(CTRL_Z);
                terminal.wait_for_note("20");
                terminal.press(CTRL_C);
                terminal.wait_for_note("2");
                let mut below = below(terminal.pid()).into_iter().filter_map(Snapshot::of);
                let worker = below.find(|process| process.sidekiq().is_some()).unwrap();
                send(worker.pid, Signal::SIGTERM.into()).unwrap();
                // dash dies of Ctrl-C; the worker may go on all the same.
                let code = if shell == "dash" { 130 } else { 7 };
                let log = terminal.log();
                wait_for("done", || notes(&log).contains(&"done".to_owned()).then_some(()));
                assert_eq!(terminal.end(), code, "{place:?} {shell} {exec}");
            }
        }
    }
}

#[test]
fn ctrl_z_gives_an_interactive_shell_its_terminal_back_and_fg_goes_on() {
    let mut terminal = Terminal::start(Place::Subreaper, |init| {
        format!(
            "set -m; {init} -- sh -c 'echo begun; read line; echo \"read $line\"; exit 5'; echo \"stopped $?\"; read key; fg; echo \"ended $?\""
        )
    });
    terminal.wait_for_text("begun");
    terminal.press(CTRL_Z);
    terminal.wait_for_text("stopped 148");
    terminal.press(b"\n");
    sleep(Duration::from_millis(300));
    terminal.press(b"words\n");
    terminal.wait_for_text("read words");
    terminal.wait_for_text("ended 5");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_terminal_comes_back_when_it_ends() {
    let mut terminal = Terminal::start(Place::Subreaper, |init| {
        format!("{init} -- sh -c 'echo begun; read x'; read y; echo \"got $y\"")
    });
    terminal.wait_for_text("begun");
    terminal.press(b"one\n");
    terminal.press(b"two\n");
    terminal.wait_for_text("got two");
    assert_eq!(terminal.end(), 0);
}
