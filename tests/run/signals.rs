//! Which signal reaches which process.

use super::*;

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

/// A TERM would make it exit with another code, or kill it where it has already put its handlers away.
#[test]
fn a_program_that_is_busy_with_its_own_end_is_not_told() {
    let script = "$SIG{TERM} = sub { exit 9 }; if (!($p = fork)) { exec @ARGV } waitpid $p, 0; \
        my $ended = time; 1 while time < $ended + 2; exit 5";
    for place in places() {
        let home = Home::new();
        let run = home.start(place, &[], &["perl", "-e", script, "./sidekiq", "log", "0"]);
        run.wait_for_note("log", "ready");
        run.send(Signal::SIGTERM);
        assert_eq!(run.end(), (5, String::new()), "{place:?}");
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
