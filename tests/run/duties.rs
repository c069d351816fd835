//! What every init has to do: reap, pass on, leave nothing behind.

use super::*;

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
