//! How it ends, and with which exit code.

use super::*;

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

/// The C libraries differ in this, so `run` does it itself.
#[test]
fn a_script_without_a_first_line_is_the_shells() {
    for place in places() {
        let home = Home::new();
        fs::write(home.0.path().join("no-first-line"), "exit $(($# + $1))\n").unwrap();
        fs::set_permissions(home.0.path().join("no-first-line"), PermissionsExt::from_mode(0o755)).unwrap();
        for program in ["./no-first-line", "no-first-line"] {
            let mut line = home.command(place, &[], &[program, "3", "x"]);
            let path = format!("{}:{}", std::env::var("PATH").unwrap(), home.0.path().display());
            assert_eq!(line.env("PATH", path).status().unwrap().code(), Some(5), "{place:?} {program}");
        }
    }
}

#[test]
fn a_worker_that_outlives_the_command_drains_first() {
    for place in places() {
        for (command, code, terms) in [
            // Nobody has told it.
            ("./sidekiq log 1 & until [ -s log ]; do sleep 0.1; done; exit 3", 3, 1),
            // It is nobody's child any more, in a session and a group of its own.
            ("(setsid ./sidekiq log 1 &); until [ -s log ]; do sleep 0.1; done; exit 3", 3, 1),
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
