//! The processes below one, found without reading every process of the machine.
//!
//! The kernel lists the children of each thread (`proc_tid_children(5)`): a child belongs to the thread that started it,
//! and moves to another thread or another process when that one ends. One look is not reliable. It can miss a process
//! that moves meanwhile, and one whose elder sibling is reaped meanwhile. So the look is repeated until it finds nobody
//! new. A kernel without CONFIG_PROC_CHILDREN has no such lists; there every process is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::proc_file;
use super::procfs::Snapshot;

/// So many looks are enough, even if a process below starts one command after the other.
const LOOKS: usize = 16;

impl Snapshot {
    /// The processes below a process that have not ended: its children, their children, and so on.
    #[must_use]
    pub fn below(pid: i32) -> Vec<Self> {
        connected(pid, candidates(pid, usize::MAX))
    }

    /// The children of a process that have not ended.
    #[must_use]
    pub fn children(pid: i32) -> Vec<Self> {
        candidates(pid, 1).into_iter().filter(|snapshot| snapshot.parent == pid).collect()
    }
}

/// All that are below, so many generations down, and perhaps others.
fn candidates(pid: i32, generations: usize) -> Vec<Snapshot> {
    if !Path::new("/proc/thread-self/children").exists() {
        return Snapshot::living();
    }
    let listed = listed(pid, generations).into_iter().filter_map(Snapshot::of);
    listed.filter(|snapshot| !snapshot.has_ended()).collect()
}

/// A pid in the kernel's lists may be another process's by now, so the parents decide.
fn connected(above: i32, mut others: Vec<Snapshot>) -> Vec<Snapshot> {
    let mut found = Vec::new();
    let mut parents = BTreeSet::from([above]);
    while !parents.is_empty() {
        let (children, rest): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|snapshot| parents.contains(&snapshot.parent));
        parents = children.iter().map(|child| child.pid).collect();
        found.extend(children);
        others = rest;
    }
    found
}

fn listed(pid: i32, generations: usize) -> Vec<i32> {
    until_nobody_is_new(|| {
        let mut found = Vec::new();
        let mut known = BTreeSet::from([pid]);
        let mut parents = vec![pid];
        for _ in 0..generations {
            parents = parents.into_iter().flat_map(listed_children).filter(|child| known.insert(*child)).collect();
            if parents.is_empty() {
                break;
            }
            found.extend(&parents);
        }
        found
    })
}

fn until_nobody_is_new(mut look: impl FnMut() -> Vec<i32>) -> Vec<i32> {
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for _ in 0..LOOKS {
        let before = found.len();
        found.extend(look().into_iter().filter(|pid| known.insert(*pid)));
        if found.len() == before {
            break;
        }
    }
    found
}

fn listed_children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut children = Vec::new();
    for list in threads.filter_map(|thread| proc_file::text(thread.path().join("children")).ok()) {
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    children
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::{Child, Command};
    use std::sync::mpsc;
    use std::thread;

    use nix::unistd::getpid;

    use super::*;

    fn sleep() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn pids(snapshots: &[Snapshot]) -> Vec<i32> {
        snapshots.iter().map(|snapshot| snapshot.pid).collect()
    }

    fn has(child: &Child) -> bool {
        let pid = i32::try_from(child.id()).unwrap();
        let own = getpid().as_raw();
        let found = [Snapshot::below(own), Snapshot::children(own), connected(own, Snapshot::living())];
        let found = found.map(|found| pids(&found).contains(&pid));
        assert!(found.iter().all(|has| *has == found[0]), "{found:?}");
        found[0]
    }

    #[test]
    fn by_their_parents() {
        let process = |pid, parent| Snapshot { pid, parent, ..Snapshot::default() };
        let all: Vec<Snapshot> = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 9), (8, 7)]
            .map(|(pid, parent)| process(pid, parent))
            .into();
        for (above, expected) in [(1, &[2, 5, 3, 6, 4][..]), (2, &[3, 4]), (8, &[]), (0, &[1, 2, 5, 3, 6, 4])] {
            assert_eq!(pids(&connected(above, all.clone())), expected, "{above}");
        }
        assert_eq!(
            pids(&connected(1, vec![process(2, 3), process(3, 2)])),
            [0; 0],
            "a circle, because pids were reused"
        );
    }

    #[test]
    fn children_of_a_thread_and_of_one_that_has_ended() {
        let (is_started, started) = mpsc::channel();
        let (end_it, ends) = mpsc::channel::<()>();
        let starter = thread::spawn(move || {
            is_started.send(sleep()).unwrap();
            let _ = ends.recv();
        });
        let child = started.recv().unwrap();
        assert!(has(&child), "the thread lives");
        drop(end_it);
        starter.join().unwrap();
        assert!(has(&child), "the thread has ended");
        end(child);
    }

    #[test]
    fn one_that_has_ended_is_left_out() {
        let mut child = sleep();
        assert!(has(&child));
        child.kill().unwrap();
        while Snapshot::of(i32::try_from(child.id()).unwrap()).is_some_and(|snapshot| !snapshot.has_ended()) {
            thread::yield_now();
        }
        assert!(!has(&child), "a zombie");
        child.wait().unwrap();
    }

    #[test]
    fn grandchildren() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60; true"]).spawn().unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let below = loop {
            match Snapshot::below(pid) {
                below if below.is_empty() => thread::yield_now(),
                below => break below,
            }
        };
        assert_eq!(pids(&below), pids(&connected(pid, Snapshot::living())));
        assert!(pids(&Snapshot::below(getpid().as_raw())).contains(&below[0].pid));
        assert!(!pids(&Snapshot::children(getpid().as_raw())).contains(&below[0].pid));
        shell.kill().unwrap();
        shell.wait().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(below[0].pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn looks_are_repeated_until_one_finds_nobody_new() {
        for (looks, expected) in [
            (&[&[][..], &[1]][..], &[][..]),
            (&[&[1, 2], &[1, 2], &[3]], &[1, 2]),
            (&[&[1], &[2], &[1], &[3]], &[1, 2]),
            (&[&[2], &[1, 2, 3], &[3, 4], &[4], &[5]], &[2, 1, 3, 4]),
        ] {
            let mut looks = looks.iter();
            assert_eq!(until_nobody_is_new(|| looks.next().unwrap().to_vec()), expected);
        }
        let mut pid = 0;
        let look = || {
            pid += 1;
            vec![pid]
        };
        assert_eq!(until_nobody_is_new(look).len(), LOOKS, "but not for ever");
    }
}
