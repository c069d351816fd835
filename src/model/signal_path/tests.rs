use super::super::wrappers;
use super::*;

fn link(pid: i32, program: Program, command: &str) -> Link {
    // A quoted part is one argument.
    let arguments: Vec<String> = command
        .split('\'')
        .enumerate()
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        })
        .collect();
    Link {
        pid,
        program,
        name: arguments[0].clone(),
        arguments,
        is_first: pid == 1,
        is_pid1: pid == 1,
        group: pid,
        threads: 1,
        ..Link::default()
    }
}

fn worker() -> Link {
    let handled = Handling::Handled;
    let sidekiq = link(99, Program::Other, "sidekiq");
    Link { term: handled, tstp: handled, threads: 9, signalled_by_run: vec![Request::Stop, Request::Quiet], ..sidekiq }
}

fn shell(pid: i32, command: &str) -> Link {
    link(pid, Program::Shell, command)
}

fn trap(pid: i32) -> Link {
    Link { term: Handling::Handled, ..shell(pid, "bash /app/entry.sh") }
}

fn init(program: Program, command: &str) -> Link {
    Link { term: Handling::Blocked, tstp: Handling::Blocked, ..link(1, program, command) }
}

/// Given from PID 1 down, as people think of it. Everything below it is in one process group, except a link with a
/// group of its own.
fn path(above: &[Link]) -> Path {
    path_to(worker(), above)
}

fn path_to(worker: Link, above: &[Link]) -> Path {
    let leader = above.get(1).map_or(worker.pid, |child| child.pid);
    let links = std::iter::once(&worker).chain(above.iter().rev()).cloned();
    Path::new(links.map(|link| if link.group == link.pid { Link { group: leader, ..link } } else { link }).collect())
}

#[test]
fn what_becomes_of_term_and_tstp() {
    use Fate::{Arrives, CutShort, Freezes, Lost, Unknown};
    let tini = || init(Program::Tini, "tini -- sh /app/entry.sh");
    let free = |link| Link { child_in_background: true, ..link };
    let systemd = || init(Program::Manager, "/sbin/init");
    let bash = |pid| shell(pid, "bash /app/entry.sh");
    let relayed = |link| Link { is_relayed: true, ..link };
    let interactive = |link| Link { is_interactive: true, tstp: Handling::Ignored, term: Handling::Ignored, ..link };
    let person = |pid| Link { has_terminal: true, ..interactive(shell(pid, "-bash")) };
    let known = |pid, program| Link { term: Handling::Handled, ..link(pid, program, "known") };
    let other = |pid, term| Link { term, ..link(pid, Program::Other, "foreman start") };
    let table: &[(&str, Vec<Link>, Fate, Fate)] = &[
        ("PID 1 itself", vec![], Arrives, Arrives),
        ("sh -c", vec![shell(1, "sh -c 'sidekiq'")], Lost, Lost),
        ("trap, foreground", vec![trap(1)], Lost, Lost),
        ("trap, background", vec![free(trap(1))], Unknown, Lost),
        ("an ignoring shell", vec![Link { term: Handling::Ignored, ..bash(1) }], Lost, Lost),
        ("tini", vec![tini()], Arrives, Arrives),
        ("tini and a shell", vec![tini(), bash(7)], Lost, Lost),
        ("tini and a trap", vec![tini(), trap(7)], Lost, Lost),
        ("tini -g and a shell", vec![init(Program::Tini, "tini -vg -- sh x"), bash(7)], CutShort, Arrives),
        ("tini, -g of the child's", vec![init(Program::Tini, "tini sh -g"), bash(7)], Lost, Lost),
        ("tini -p value", vec![init(Program::Tini, "tini -p SIGTERM -g -- x"), bash(7)], CutShort, Arrives),
        ("dumb-init", vec![init(Program::DumbInit, "dumb-init sidekiq")], Arrives, Freezes),
        ("dumb-init and a shell", vec![init(Program::DumbInit, "dumb-init sh x"), bash(7)], CutShort, Freezes),
        ("dumb-init -c and a shell", vec![init(Program::DumbInit, "dumb-init -c sh x"), bash(7)], Lost, Lost),
        ("dumb-init -c", vec![init(Program::DumbInit, "dumb-init --single-child sidekiq")], Arrives, Arrives),
        ("dumb-init, rewritten", vec![init(Program::DumbInit, "dumb-init -r 20:20 sidekiq")], Arrives, Arrives),
        ("dumb-init, rewritten", vec![init(Program::DumbInit, "dumb-init --rewrite=20:20 x")], Arrives, Arrives),
        ("catatonit", vec![init(Program::Catatonit, "catatonit -- sidekiq")], Arrives, Lost),
        ("sh, tini, sh", vec![bash(1), link(7, Program::Tini, "tini -s -- sh x"), bash(8)], Lost, Lost),
        (
            "timeout",
            vec![tini(), Link { term: Handling::Handled, ..link(7, Program::Timeout, "timeout 9 x") }],
            Arrives,
            Lost,
        ),
        ("run and a shell", vec![init(Program::Run, "sidekiq-lifecycle run -- sh x"), bash(7)], Arrives, Arrives),
        ("systemd", vec![systemd()], Arrives, Arrives),
        ("systemd and a shell", vec![systemd(), bash(7)], Unknown, Lost),
        ("init of the machine", vec![Link { is_machines: true, ..known(1, Program::Init) }], Arrives, Arrives),
        ("busybox init", vec![Link { kills_after: Some(1.0), ..known(1, Program::Init) }], Unknown, Lost),
        ("runsvdir", vec![known(1, Program::Runsvdir), known(7, Program::Runsv)], Lost, Lost),
        ("tini, runsvdir", vec![tini(), known(6, Program::Runsvdir), known(7, Program::Runsv)], Lost, Lost),
        ("s6", vec![known(1, Program::S6Svscan), known(7, Program::S6Supervise)], Arrives, Lost),
        ("su", vec![tini(), Link { kills_after: Some(2.0), ..known(7, Program::Su) }], Unknown, Lost),
        ("sudo", vec![tini(), Link { tstp: Handling::Handled, ..known(7, Program::Sudo) }], Arrives, Arrives),
        ("foreman", vec![known(1, Program::Foreman)], Unknown, Lost),
        (
            "a runtime of the host",
            vec![link(1, Program::Manager, "init"), link(5, Program::Runtime, "x")],
            Arrives,
            Arrives,
        ),
        ("a runtime of the host, a shell", vec![systemd(), link(5, Program::Runtime, "x"), bash(7)], Lost, Lost),
        ("a terminal", vec![systemd(), other(5, Handling::Handled), person(7)], Arrives, Arrives),
        ("bash -ic", vec![systemd(), other(5, Handling::Handled), interactive(shell(7, "bash -ic 'x'"))], Lost, Lost),
        (
            "bash -ic at a terminal",
            vec![tini(), Link { has_terminal: true, ..interactive(shell(7, "bash -ic 'x'")) }],
            Lost,
            Lost,
        ),
        ("a person's shell without a terminal", vec![tini(), interactive(shell(7, "bash -i"))], Lost, Lost),
        ("a person in a container", vec![tini(), person(7)], Lost, Lost),
        ("a shell at a terminal", vec![systemd(), person(7), bash(8)], Lost, Lost),
        ("a terminal in a container", vec![person(1)], Lost, Lost),
        ("a program with a handler", vec![other(1, Handling::Handled)], Unknown, Lost),
        ("a program without", vec![other(1, Handling::Default)], Lost, Lost),
        ("a program with sigwait", vec![other(1, Handling::Blocked)], Unknown, Lost),
        ("the relay", vec![relayed(bash(1))], Arrives, Arrives),
        ("the relay and a trap, foreground", vec![relayed(trap(1))], Arrives, Arrives),
        ("the relay and a trap, background", vec![relayed(free(trap(1)))], Unknown, Arrives),
        ("the relay, above a trap", vec![relayed(bash(1)), relayed(free(trap(7)))], Arrives, Arrives),
        ("the relay, and a handler since", vec![relayed(other(1, Handling::Handled))], Unknown, Lost),
        ("the relay, in part", vec![bash(1), relayed(bash(7))], Lost, Lost),
        ("the relay, above", vec![relayed(bash(1)), bash(7)], Arrives, Arrives),
        ("dumb-init and the relay, above", vec![relayed(init(Program::DumbInit, "dumb-init x")), bash(7)], Lost, Lost),
        ("tini and the relay", vec![tini(), relayed(bash(7))], Arrives, Arrives),
        ("dumb-init and the relay", vec![relayed(init(Program::DumbInit, "dumb-init x"))], Arrives, Arrives),
    ];
    for (name, links, term, tstp) in table {
        let path = path(links);
        assert_eq!((path.fate(Request::Stop).0, path.fate(Request::Quiet).0), (*term, *tstp), "{name}");
    }
}

#[test]
fn a_signal_to_a_group_reaches_its_members() {
    use Fate::{Arrives, CutShort, Lost};
    let elsewhere = || Link { group: 50, ..worker() };
    let tini = |variable: &str| Link { variables: vec![variable.to_owned()], ..init(Program::Tini, "tini -- x") };
    let dumb_init = |command| init(Program::DumbInit, command);
    let shell = || shell(7, "bash x");
    let wait = || link(8, Program::Other, "setsid -w sidekiq");
    let table: &[(&str, Path, Fate)] = &[
        ("its own", path_to(elsewhere(), &[init(Program::Tini, "tini -g -- x"), trap(7), wait()]), Lost),
        ("that of the child", path(&[init(Program::Tini, "tini -g -- x"), trap(7)]), Arrives),
        ("dumb-init, its own", path_to(elsewhere(), &[dumb_init("dumb-init -r 20:20 x"), trap(7), wait()]), Lost),
        ("by variable", path(&[tini("TINI_KILL_PROCESS_GROUP="), shell()]), CutShort),
        ("no variable", path(&[tini("TINI_VERBOSITY=1"), shell()]), Lost),
        (
            "not, by variable",
            path(&[Link { variables: vec!["DUMB_INIT_SETSID=0".to_owned()], ..dumb_init("dumb-init x") }, shell()]),
            Lost,
        ),
    ];
    for (name, path, fate) in table {
        assert_eq!(path.fate(Request::Stop).0, *fate, "{name}");
    }
}

fn run_link(command: &str) -> Link {
    let run = init(Program::Run, &format!("sidekiq-lifecycle {command}"));
    Link { kills_after: wrappers::kills_after(Program::Run, &run.arguments, None), ..run }
}

#[test]
fn programs_that_kill_before_sidekiq_has_finished() {
    use Fate::{Arrives, CutShort, Lost, Unknown};
    let timeout = |seconds| Link {
        term: Handling::Handled,
        kills_after: Some(seconds),
        ..link(7, Program::Timeout, "timeout -k 3 1h x")
    };
    let tini = || init(Program::Tini, "tini -- x");
    let carried = || Link { is_relayed: true, ..shell(6, "sh x") };
    let told = || vec![Request::Stop];
    let run = |command, is_told: bool| {
        let (above, below) = if is_told { (told(), Vec::new()) } else { (Vec::new(), told()) };
        let worker = Link { signalled_by_run: below, ..worker() };
        path_to(worker, &[run_link(command), Link { signalled_by_run: above, ..timeout(3.0) }])
    };
    let runsvdir = |command| {
        let runsvdir = Link { signalled_by_run: told(), ..init(Program::Runsvdir, "runsvdir") };
        path_to(Link { signalled_by_run: Vec::new(), ..worker() }, &[run_link(command), runsvdir])
    };
    for (name, path, needed, fate) in [
        ("in time", path(&[tini(), timeout(12.0)]), Some(12.0), Arrives),
        ("too early", path(&[tini(), timeout(3.0)]), Some(12.0), CutShort),
        ("nobody knows", path(&[tini(), timeout(3.0)]), None, Unknown),
        ("not signalled, by run", run("run -- x", false), Some(12.0), Arrives),
        ("signalled by run", run("run -- x", true), Some(12.0), CutShort),
        ("run in time", run("run --stop-grace 12 -- x", false), Some(12.0), Arrives),
        ("run too early", run("run --stop-grace 11 -- x", false), Some(12.0), CutShort),
        ("outlives the command", runsvdir("run -- x"), Some(12.0), Arrives),
        ("does not outlive it", runsvdir("run --grace 3 -- x"), Some(12.0), Lost),
        ("not signalled, by the relay", path(&[tini(), carried(), timeout(3.0)]), Some(12.0), Arrives),
    ] {
        assert_eq!(path.with_needed(needed).fate(Request::Stop).0, fate, "{name}");
    }
}

#[test]
fn processes_that_the_relay_traces() {
    let person = Link { is_interactive: true, has_terminal: true, ..shell(5, "bash") };
    let supervisor = Link { threads: 5, ..link(6, Program::Other, "envconsul") };
    let handling = |pid, command: &str| Link { term: Handling::Handled, ..link(pid, Program::Other, command) };
    let table: &[(Vec<Link>, &[i32])] = &[
        (vec![], &[]),
        (vec![init(Program::Tini, "tini -- x")], &[]),
        (vec![init(Program::Tini, "tini -- x"), trap(7)], &[7]),
        (vec![shell(1, "sh x"), init(Program::Tini, "tini -- x"), shell(8, "sh y")], &[8, 1]),
        (vec![init(Program::DumbInit, "dumb-init x")], &[1]),
        (vec![init(Program::DumbInit, "dumb-init -r 20:20 x"), shell(8, "sh")], &[8]),
        (vec![init(Program::DumbInit, "dumb-init -c x"), shell(8, "sh")], &[8]),
        (vec![init(Program::Catatonit, "catatonit x"), shell(8, "sh")], &[8]),
        (vec![init(Program::Run, "sidekiq-lifecycle run x"), shell(8, "sh")], &[]),
        (vec![init(Program::Manager, "systemd"), person, supervisor, shell(8, "sh")], &[8, 6]),
        (vec![init(Program::Tini, "tini"), Link { is_interactive: true, ..shell(8, "bash -ic 'x'") }], &[8]),
        (vec![link(1, Program::Other, "python3 main.py")], &[1]),
        // Only their exit waits.
        (vec![handling(1, "puma 6.6.0 (unix:///tmp/puma)")], &[1]),
        (vec![init(Program::Tini, "tini -- x"), handling(7, "puma"), shell(8, "sh")], &[8, 7]),
        (vec![init(Program::Tini, "tini -- x"), shell(7, "sh"), handling(8, "puma")], &[7]),
        (vec![Link { term: Handling::Blocked, ..handling(1, "python3 main.py") }], &[]),
        (vec![Link { threads: 0, ..handling(1, "a hidden process") }], &[]),
        (vec![handling(1, "'sidekiq 7.3.2 app [0 of 5 busy]'")], &[]),
    ];
    for (links, expected) in table {
        assert_eq!(path(links).to_be_relayed(), *expected, "{links:?}");
    }
}

#[test]
fn links_that_end_everything() {
    let path = path(&[shell(1, "sh"), link(7, Program::Tini, "tini -s -- x"), shell(8, "sh"), shell(9, "sh")]);
    let ends_all: Vec<bool> = (1..5).map(|index| path.ends_all(index)).collect();
    assert_eq!(ends_all, [false, true, false, true]);
}

#[test]
fn a_service_of_systemd() {
    let links = [init(Program::Manager, "/sbin/init"), shell(7, "bash /app/entry.sh")];
    let table = [
        (None, Fate::Unknown),
        (KillMode::named("none"), Fate::Unknown),
        (KillMode::named("control-group"), Fate::Arrives),
        (KillMode::named("mixed"), Fate::Lost),
        (KillMode::named("process"), Fate::Lost),
    ];
    for (kill_mode, fate) in table {
        assert_eq!(path(&links).with_kill_mode(kill_mode).fate(Request::Stop).0, fate, "{kill_mode:?}");
    }
    let handled = |program, kills_after| Link { term: Handling::Handled, kills_after, ..link(7, program, "x") };
    for (link, fate) in [
        (handled(Program::Su, Some(2.0)), Fate::CutShort),
        (handled(Program::Sudo, None), Fate::Arrives),
        (handled(Program::Foreman, None), Fate::Unknown),
        (link(7, Program::Other, "perl"), Fate::Arrives),
    ] {
        let path = path(&[init(Program::Manager, "/sbin/init"), link.clone()]).with_needed(Some(12.0));
        assert_eq!(path.with_kill_mode(KillMode::named("control-group")).fate(Request::Stop).0, fate, "{link:?}");
    }
    let container = path(&[shell(1, "sh")]).with_kill_mode(KillMode::named("control-group"));
    assert_eq!(container.fate(Request::Stop).0, Fate::Lost);
}

#[test]
fn pid_1_of_a_container_seen_from_its_host() {
    let seen = Link { is_first: true, is_pid1: true, ..shell(4711, "sh -c 'sidekiq'") };
    assert_eq!(path(std::slice::from_ref(&seen)).fate(Request::Stop), (Fate::Lost, 1));
    assert!(seen.verdict(Request::Stop).starts_with("drops TERM: it is PID 1 of its container and has no handler"));
}

#[test]
fn a_sidekiq_beside_pid_1() {
    let first = |link| Link { is_first: true, ..link };
    let lone = Path::new(vec![first(worker())]);
    let below = Path::new(vec![worker(), first(shell(50, "sh -c 'x'"))]);
    for path in [lone, below] {
        assert_eq!((path.fate(Request::Stop).0, path.fate(Request::Quiet).0), (Fate::Lost, Fate::Lost));
        assert_eq!(path.problem().as_deref(), path.beside());
        assert!(path.fix().unwrap().starts_with("start it as the container's command"));
    }
    assert_eq!(path(&[shell(1, "sh")]).beside(), None);
}

#[test]
fn the_shortest_fix() {
    let table: &[(Link, &str)] = &[
        (shell(1, "/bin/sh -c 'bundle exec sidekiq'"), "write CMD [\"bundle\", \"exec\", \"sidekiq\"],"),
        (
            shell(1, "busybox sh -c 'cd / && sidekiq'"),
            "put exec before the command that starts Sidekiq in `cd / && sidekiq`",
        ),
        (shell(1, "sh -c 'A=b sidekiq'"), "put exec before the command that starts Sidekiq in `A=[hidden] sidekiq`"),
        (shell(1, "bash -eu -o pipefail /app/entry.sh"), "the last one in /app/entry.sh,"),
        (shell(1, "bash -eo pipefail -c 'x; y'"), "in `x; y`"),
        (shell(1, "bash"), "put exec before the command that starts Sidekiq, or"),
        (init(Program::DumbInit, "dumb-init sidekiq"), "dumb-init --rewrite 20:20"),
        (init(Program::Catatonit, "catatonit -- sidekiq"), "replace catatonit with sidekiq-lifecycle run --"),
        (link(1, Program::Other, "python3 main.py"), "make python3 forward signals, or put sidekiq-lifecycle run"),
        (
            Link { term: Handling::Handled, kills_after: Some(2.0), ..link(1, Program::Su, "su app -c x") },
            "replace su with setpriv, which leaves no process in between, or put",
        ),
        (
            Link { term: Handling::Handled, ..link(1, Program::Foreman, "foreman") },
            "start Sidekiq without foreman, or put sidekiq-lifecycle run -- in front of it",
        ),
    ];
    for (link, expected) in table {
        let fix = path(std::slice::from_ref(link)).fix_in_full().unwrap();
        assert!(fix.contains(expected), "{fix}");
    }
    assert_eq!(path(&[init(Program::Tini, "tini -- sidekiq")]).fix(), None);
    let below_run = |command, link: Link| {
        let told = Link { signalled_by_run: vec![Request::Stop, Request::Quiet], ..link };
        path_to(Link { signalled_by_run: Vec::new(), ..worker() }, &[run_link(command), told])
    };
    for (path, expected) in [
        (
            path(&[Link { child_in_background: true, ..trap(1) }]),
            "remove the trap and put exec before the command that starts Sidekiq, or test it with sidekiq-lifecycle doctor --",
        ),
        (below_run("run -- x", Link { child_in_background: true, ..trap(7) }), "remove the trap and put exec"),
        (
            below_run("run --grace 3 -- x", init(Program::Runsvdir, "runsvdir")),
            "give sidekiq-lifecycle run a --grace of at least 12 s",
        ),
        (
            path_to(worker(), &[run_link("run --stop-grace 5 -- x")]),
            "give sidekiq-lifecycle run a --stop-grace of at least 12 s, or none",
        ),
        (below_run("run -- x", init(Program::Foreman, "foreman")), "start Sidekiq without foreman"),
    ] {
        let fix = path.with_needed(Some(12.0)).fix().unwrap();
        assert!(fix.starts_with(expected), "{fix}");
        assert!(!fix.contains("put sidekiq-lifecycle run"), "{fix}");
    }
}

#[test]
fn public_advice_contains_no_command_line() {
    let in_line = "put exec before the command that starts Sidekiq in `sh -c '…'`, or put sidekiq-lifecycle run -- in front of it";
    for (link, expected) in [
        (shell(1, "sh -c 'bundle exec sidekiq'"), in_line),
        (shell(1, "sh -c 'sidekiq -r redis://u:hunter2@h'"), in_line),
        (shell(1, "sh -c 'TOKEN=hunter2 sidekiq; true'"), in_line),
        (
            shell(1, "sh /app/entry.sh hunter2"),
            "put exec before the command that starts Sidekiq, the last one in /app/entry.sh, or put sidekiq-lifecycle run -- in front of it",
        ),
        (
            shell(1, "sh TOKEN=hunter2"),
            "put exec before the command that starts Sidekiq, or put sidekiq-lifecycle run -- in front of it",
        ),
    ] {
        assert_eq!(path(std::slice::from_ref(&link)).fix().as_deref(), Some(expected));
    }
}

#[test]
fn problems() {
    let table: &[(Link, Option<&str>)] = &[
        (
            shell(1, "sh -c 'sidekiq'"),
            Some(
                "a SIGTERM sent to sh (pid 1) is lost: sh (pid 1) drops TERM: it is PID 1 and has no handler for it \
                 (bit 15 of SigCgt is not set)",
            ),
        ),
        (
            init(Program::DumbInit, "dumb-init sidekiq"),
            Some(
                "a SIGTSTP sent to dumb-init (pid 1) freezes Sidekiq: dumb-init (pid 1) turns TSTP into SIGSTOP for \
                 itself and everything below it",
            ),
        ),
        (init(Program::Tini, "tini -- sidekiq"), None),
        (Link { term: Handling::Handled, ..link(1, Program::Other, "foreman start") }, None),
    ];
    for (link, problem) in table {
        assert_eq!(path(std::slice::from_ref(link)).problem().as_deref(), *problem);
    }
}

#[test]
fn every_verdict_names_the_signal() {
    for link in [
        shell(1, "sh"),
        shell(7, "sh"),
        trap(7),
        Link { child_in_background: true, ..trap(7) },
        init(Program::Tini, "tini x"),
        init(Program::DumbInit, "dumb-init x"),
        init(Program::Catatonit, "catatonit x"),
        init(Program::Manager, "systemd"),
        init(Program::Runsvdir, "runsvdir"),
        init(Program::Foreman, "foreman"),
        init(Program::Supervisord, "supervisord"),
        Link { kills_after: Some(2.0), ..init(Program::Su, "su") },
        link(7, Program::Other, "x"),
    ] {
        for (request, name) in [(Request::Stop, "TERM"), (Request::Quiet, "TSTP")] {
            let verdict = link.verdict(request);
            assert!(verdict.contains(name) || link.program == Program::Manager, "{verdict}");
        }
    }
}
