//! The doctor, on real process trees. A bash with Sidekiq's title, and a handler, stands for a Sidekiq without the gem; real ones are in
//! spec/integration/doctor_spec.rb.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tempfile::TempDir;

mod support;
use support::undisturbed;

/// Started by bash: `exec -a` is its own.
const SIDEKIQ: &str =
    "exec -a 'sidekiq 7.3.2 app [0 of 5 busy]' bash -c 'trap : TERM; : > stands; while :; do read line <> pipe; done'";

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

/// A place where the doctor lies, and where anybody may call it.
struct Surgery {
    home: TempDir,
    doctor: PathBuf,
}

impl Surgery {
    /// `None`, with a word of why, where no namespaces may be made.
    fn open() -> Option<Self> {
        let is_allowed =
            Command::new("unshare").args(["--pid", "--mount", "--fork", "true"]).stderr(Stdio::null()).status();
        if !is_allowed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no namespaces may be made here");
            return None;
        }
        let home = TempDir::new().unwrap();
        fs::set_permissions(&home, PermissionsExt::from_mode(0o1777)).unwrap();
        mkfifo(&home.path().join("pipe"), Mode::from_bits_truncate(0o666)).unwrap();
        fs::set_permissions(home.path().join("pipe"), PermissionsExt::from_mode(0o666)).unwrap();
        let doctor = home.path().join("sidekiq-lifecycle");
        // Not copied by ourselves: a child that another test forks meanwhile would have it open to write (ETXTBSY).
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sidekiq-lifecycle")).arg(&doctor).status().unwrap();
        assert!(copied.success());
        Some(Self { home, doctor })
    }

    /// Runs a script as PID 1 of a PID namespace of its own; `$DOCTOR` is the doctor.
    fn container(&self, shell: &str, script: &str) -> Said {
        self.said(undisturbed("unshare").args(["--pid", "--mount-proc", "--fork", "--kill-child", shell, "-c", script]))
    }

    fn doctor(&self, arguments: &[&str]) -> Said {
        self.said(undisturbed(&self.doctor).arg("doctor").args(arguments))
    }

    fn said(&self, command: &mut Command) -> Said {
        command
            .env("DOCTOR", &self.doctor)
            .env_remove("SIDEKIQ_LIFECYCLE_DIR")
            .env_remove("SIDEKIQ_LIFECYCLE_STOP_TIMEOUT")
            .env_remove("ECS_CONTAINER_STOP_TIMEOUT");
        let output = command.current_dir(&self.home).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

/// A script that starts a Sidekiq in the background, waits until it stands, and goes on.
fn with_sidekiq(script: &str) -> String {
    format!("rm -f stands; bash -c \"{SIDEKIQ}\" & while ! [ -e stands ]; do :; done; {script}")
}

#[test]
fn a_sidekiq_below_a_shell_loses_its_jobs() {
    let Some(surgery) = Surgery::open() else { return };
    let (code, out, _) = surgery.container("dash", &with_sidekiq("$DOCTOR doctor; exit $?"));
    let expected = "\
Sidekiq 7.3.2, pid 3, uid 0, without sidekiq_lifecycle

  dash (pid 1)     drops TERM: it is PID 1 and has no handler for it (bit 15 of SigCgt is not set)
  └─ bash (pid 3)  is Sidekiq

  relay      none: this Sidekiq does not use sidekiq_lifecycle
  signals    blocked: none; ignored: INT QUIT
  time       neither -t nor the stop timeout is known
  directory  none

loses jobs on stop: a SIGTERM sent to dash (pid 1) is lost, and there is no relay: this Sidekiq does not use \
sidekiq_lifecycle; to fix it, put exec before the command that starts Sidekiq";
    assert_eq!(out.split(" in `").next(), Some(expected), "{out}");
    assert_eq!(code, 1);
}

#[test]
fn a_container_is_judged_from_its_host_as_from_inside() {
    let Some(surgery) = Surgery::open() else { return };
    let inner = with_sidekiq("touch begun; wait");
    let script = "unshare --pid --mount-proc --fork --kill-child dash -c \"$INNER\" & \
                  while ! [ -e begun ]; do :; done; $DOCTOR doctor --json; exit $?";
    let mut command = undisturbed("unshare");
    command.args(["--pid", "--mount-proc", "--fork", "--kill-child", "dash", "-c", script]).env("INNER", inner);
    let (code, out, _) = surgery.said(&mut command);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["schema"], &report["verdict"]), (1, &3.into(), &"loses-jobs".into()), "{out}");
    let sidekiq = &report["sidekiqs"][0];
    assert_eq!((&sidekiq["own_pid"], &sidekiq["has_gem"]), (&3.into(), &false.into()));
    let links = sidekiq["signal_path"]["links"].as_array().unwrap();
    assert_eq!(links.len(), 2, "what is outside of the container is no part of the path: {links:?}");
    assert_ne!(links[0]["pid"], 1);
    assert!(links[0]["verdict"].as_str().unwrap().starts_with("drops TERM: it is PID 1 of its container"));
}

#[test]
fn several_sidekiqs_have_one_answer() {
    let Some(surgery) = Surgery::open() else { return };
    let script = with_sidekiq(&with_sidekiq("$DOCTOR doctor; exit $?"));
    let (code, out, _) = surgery.container("dash", &script);
    let titles: Vec<&str> = out.lines().filter(|line| line.starts_with("Sidekiq 7.3.2")).collect();
    assert_eq!((code, titles.len()), (1, 2), "{out}");
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("loses jobs on stop: pid 3: a SIGTERM") && last.matches("; pid ").count() == 1, "{last}");
}

#[test]
fn nobody_is_there() {
    let Some(surgery) = Surgery::open() else { return };
    let (code, out, _) = surgery.container("dash", "$DOCTOR doctor --dir none; exit $?");
    let place = surgery.home.path().canonicalize().unwrap().join("none");
    let expected = format!(
        "could not tell: no Sidekiq is running here: none is registered in {}, and none is in /proc\n",
        place.display()
    );
    assert_eq!((code, out), (3, expected));
    let (code, out, _) = surgery.container("dash", "$DOCTOR doctor --json; exit $?");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["verdict"], &report["sidekiqs"]), (3, &"unknown".into(), &Value::Array(Vec::new())));
}

#[test]
fn another_user_sees_less_and_says_so() {
    let Some(surgery) = Surgery::open() else { return };
    let script = with_sidekiq("setpriv --reuid 65534 --regid 65534 --clear-groups $DOCTOR doctor; exit $?");
    let (code, out, _) = surgery.container("dash", &script);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(
        "  not seen   whether sidekiq_lifecycle is in it and which programs these really are (their names were trusted): \
         the doctor runs as uid 65534; run it as uid 0 or as root\n"
    ), "{out}");
}

#[test]
fn what_proc_hides_is_not_taken_for_nothing() {
    let Some(surgery) = Surgery::open() else { return };
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let script = with_sidekiq(&format!("mount -o remount,hidepid=2 /proc; {nobody} $DOCTOR doctor; exit $?"));
    let script = script.replacen("bash", &format!("{nobody} bash"), 1);
    let (code, out, error) = surgery.container("dash", &script);
    assert_eq!(code, 3, "{out}{error}");
    assert!(out.contains("a hidden process (pid 1)  handles TERM in a way that is not visible\n"), "{out}");
    assert!(out.lines().last().unwrap().starts_with("could not tell: a hidden process (pid 1) handles TERM"), "{out}");
}

#[test]
fn a_trial_judges_and_measures() {
    let Some(surgery) = Surgery::open() else { return };
    // It says nothing of how it ends.
    let (code, out, _) = surgery.doctor(&["--", "bash", "-c", SIDEKIQ]);
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("  bash (pid 1)  is Sidekiq\n"), "{out}");
    assert!(out.contains("  measured   a SIGTSTP to PID 1 did not reach Sidekiq within 10 s\n"), "{out}");
    assert!(out.contains("             a SIGTERM to PID 1 did not end Sidekiq within 10 s\n"), "{out}");
    assert!(out.ends_with("could not tell: neither -t nor the stop timeout is known\n"), "{out}");
}

#[test]
fn a_trial_in_vain_says_why_and_shows_what_was_said() {
    let Some(surgery) = Surgery::open() else { return };
    let ended = surgery.doctor(&["--", "dash", "-c", "echo \"I am $$\"; exit 7"]);
    let line = "could not tell: the command ended before a Sidekiq had started (exit status: 7)\n";
    assert_eq!(ended, (3, line.to_owned(), "I am 1\n".to_owned()));
    let slow = surgery.doctor(&["--timeout", "3", "--json", "--", "dash", "-c", "echo slow; sleep 61"]);
    assert_eq!((slow.0, slow.2.as_str()), (3, "slow\n"));
    let report: Value = serde_json::from_str(&slow.1).unwrap();
    assert_eq!(
        report["summary"],
        "could not tell: no Sidekiq started within 3 s; use --timeout DURATION to wait longer"
    );
    let missing = surgery.doctor(&["--", "/nonexistent"]);
    assert!(missing.0 == 3 && missing.1.starts_with("could not tell: cannot start /nonexistent in a"), "{missing:?}");
}

#[test]
fn a_trial_works_where_chld_is_ignored_at_launch() {
    let Some(surgery) = Surgery::open() else { return };
    let script = "trap '' CHLD; exec \"$DOCTOR\" doctor -- dash -c 'exit 7'";
    let (code, out, _) = surgery.said(undisturbed("bash").args(["-c", script]));
    assert_eq!(
        (code, out.as_str()),
        (3, "could not tell: the command ended before a Sidekiq had started (exit status: 7)\n")
    );
}

#[test]
fn a_trial_that_is_not_allowed_says_so() {
    let Some(surgery) = Surgery::open() else { return };
    let script = "echo 0 >/proc/sys/user/max_pid_namespaces; exec $DOCTOR doctor -- true";
    let mut command = undisturbed("unshare");
    let (code, out, error) = surgery.said(command.args(["--user", "--map-root-user", "dash", "-c", script]));
    assert_eq!(code, 3, "{out}{error}");
    assert!(out.starts_with("could not tell: creating a PID namespace is not allowed here ("), "{out}");
}

#[test]
fn an_ordinary_user_may_try_as_well_where_the_system_lets_him() {
    let Some(surgery) = Surgery::open() else { return };
    let unprivileged = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let make = ["unshare", "--user", "--pid", "--fork", "--mount-proc", "true"];
    let made = Command::new("setpriv").args(unprivileged).args(make).stderr(Stdio::null()).status();
    if !made.unwrap().success() {
        eprintln!("skipped: an ordinary user may make no namespaces here");
        return;
    }
    let mut command = undisturbed("setpriv");
    command.args(unprivileged).arg(&surgery.doctor).args(["doctor", "--", "dash", "-c", "id -u; echo $$"]);
    let (code, _, error) = surgery.said(&mut command);
    assert_eq!((code, error.as_str()), (3, "65534\n1\n"));
}

#[test]
fn misuse() {
    let Some(surgery) = Surgery::open() else { return };
    for arguments in
        [&["--timeout", "5"][..], &["--dir", "x", "--", "true"], &["--timeout", "0", "--", "true"], &["true"]]
    {
        assert_eq!(surgery.doctor(arguments).0, 2, "{arguments:?}");
    }
}
