//! The signal path to a process, as /proc shows it: its ancestors, and what each of them does with a signal.

use std::fs;

use nix::sys::signal::Signal;

use crate::model::companions;
use crate::model::program::Program;
use crate::model::recipients::{self, Reach};
use crate::model::shell_traps;
use crate::model::signal_path::{Handling, Link, Path, Request};
use crate::model::wrappers;
use crate::sys::identity;
use crate::sys::supervisord;

use super::procfs::{Pipe, Snapshot, look_until_settled};

impl Snapshot {
    /// Like [`Snapshot::of`], but waits up to some milliseconds for a fork to end: Ruby, for one, blocks every signal
    /// during a fork.
    fn settled(pid: i32) -> Option<Self> {
        look_until_settled(|| Self::of(pid), |snapshot| snapshot.as_ref().is_some_and(Self::may_be_forking))
    }

    /// The process, its parent, and so on, up to PID 1 of its namespace or the last one that is visible.
    #[must_use]
    pub fn chain(pid: i32) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::new();
        let mut next = pid;
        // A parent may end and its pid may be reused meanwhile; no real chain is longer than this.
        while next > 0 && chain.len() < 64 {
            let Some(snapshot) = Self::settled(next) else { break };
            if let Some(below) = chain.last_mut().filter(|below| below.pids.len() > snapshot.pids.len()) {
                // The runtime that started a container is outside of it.
                below.parent = 0;
                break;
            }
            next = snapshot.parent;
            chain.push(snapshot);
        }
        chain
    }

    /// The processes of a [chain](Self::chain) as links.
    #[must_use]
    pub fn links(chain: &[Self]) -> Vec<Link> {
        let below = std::iter::once(None).chain(chain.iter().map(Some));
        chain.iter().zip(below).map(|(snapshot, below)| snapshot.link(below)).collect()
    }

    /// The current signal path to a process.
    #[must_use]
    pub fn path(pid: i32) -> Path {
        let chain = Self::chain(pid);
        let hidden = chain.last().map(|top| top.parent).filter(|parent| *parent > 0).map(hidden_link);
        let mut links: Vec<Link> = Self::links(&chain).into_iter().chain(hidden).collect();
        if let Some(run) = links.iter().rposition(|link| link.program == Program::Run) {
            set_signalled_by_run(&mut links, run);
        }
        Path::new(links)
    }

    /// Which processes end together with a Sidekiq that is stopped, in a sentence. `told`: those that are stopped as
    /// well.
    #[must_use]
    pub fn companions(pid: i32, told: &[i32]) -> Option<String> {
        let chain = Self::chain(pid);
        let (sidekiq, above) = chain.split_first()?;
        let is_beside = |other: &Self| {
            !chain.iter().any(|link| link.pid == other.pid)
                && !told.contains(&other.pid)
                && other.program() != Program::Relay
                && !other.reads_from(sidekiq)
        };
        companions::warning(&Self::links(&chain), || {
            let children = above.iter().flat_map(|ancestor| Self::children(ancestor.pid));
            let mut others: Vec<Self> = children.filter(is_beside).collect();
            others.sort_by_key(|other| other.pid);
            others.iter().map(|other| format!("{} (pid {})", other.name, other.pid)).collect()
        })
    }

    /// The process as a link of a path; `below` is the next one towards Sidekiq.
    #[must_use]
    pub fn link(&self, below: Option<&Self>) -> Link {
        let program = self.program();
        // With `set -m` a script's shell ignores the first two as well.
        let is_interactive = self.ignored.has(Signal::SIGTSTP)
            && self.ignored.has(Signal::SIGTTOU)
            && self.handling(Signal::SIGTERM) != Handling::Default;
        let is_relay = |tracer: &Self| tracer.program() == Program::Relay;
        let timeout_kill = (program == Program::S6Supervise)
            .then(|| fs::read_to_string(format!("/proc/{}/cwd/timeout-kill", self.pid)).ok())
            .flatten();
        Link {
            pid: self.pid,
            program,
            name: self.name.clone(),
            arguments: self.arguments.clone(),
            is_first: self.parent == 0,
            is_pid1: self.own_pid() == 1,
            term: self.handling(Signal::SIGTERM),
            tstp: self.handling(Signal::SIGTSTP),
            is_interactive: program == Program::Shell && is_interactive,
            has_terminal: self.has_terminal,
            group: self.group,
            variables: self.variables(program, below),
            kills_after: match (program, below) {
                (Program::Supervisord, Some(below)) => supervisord::kills_after(self.pid, &self.arguments, below.pid),
                _ => wrappers::kills_after(program, &self.arguments, timeout_kill.as_deref()),
            },
            is_machines: self.pid == 1 && identity::is_in_first_namespace(),
            signalled_by_run: Vec::new(),
            child_in_background: below
                .is_some_and(|below| shell_traps::run_at_once(self.for_traps(), below.for_traps())),
            threads: self.threads,
            is_relayed: self.tracer != 0 && Self::of(self.tracer).as_ref().is_some_and(is_relay),
        }
    }

    /// The variables that configure an init. Another user's cannot be read, but its child has usually inherited them.
    fn variables(&self, program: Program, below: Option<&Self>) -> Vec<String> {
        if !matches!(program, Program::Tini | Program::DumbInit) {
            return Vec::new();
        }
        let environment = |pid| fs::read(format!("/proc/{pid}/environ")).ok();
        let bytes = environment(self.pid).or_else(|| environment(below?.pid)).unwrap_or_default();
        let variables = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let counts = |variable: &str| ["TINI_", "DUMB_INIT_"].into_iter().any(|init| variable.starts_with(init));
        variables.filter(|variable| counts(variable)).map(std::borrow::Cow::into_owned).collect()
    }

    /// Whether it reads from a pipe that the other one writes its output to, as far as the caller may see.
    #[must_use]
    pub fn reads_from(&self, writer: &Self) -> bool {
        let pipe = |pid: i32, number: i32| {
            let file = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
            file.to_str().is_some_and(|name| name.starts_with("pipe:")).then_some(file)
        };
        let input = pipe(self.pid, 0);
        input.is_some() && [1, 2].into_iter().any(|number| pipe(writer.pid, number) == input)
    }
}

/// Sets which signals `run` sends to each link, by the rule that `run` itself uses.
fn set_signalled_by_run(links: &mut [Link], run: usize) {
    let pid = |index: usize| links.get(index).map(|link| link.pid);
    // It may be the path to `run` itself.
    let (Some(worker), Some(root)) = (pid(0), run.checked_sub(1).and_then(pid)) else { return };
    let input = links.get(run).and_then(|run| Pipe::read_by(run.pid));
    let below = Snapshot::of(root).into_iter().chain(Snapshot::below(root));
    let below: Vec<recipients::Process> = below.map(|snapshot| snapshot.for_recipients(input)).collect();
    for (request, signal) in [(Request::Stop, Signal::SIGTERM), (Request::Quiet, Signal::SIGTSTP)] {
        let told = match recipients::reach(&below, root, worker, signal.into()) {
            Reach::Direct => worker,
            Reach::Trap(pid) | Reach::Through(pid) => pid,
            Reach::None => continue,
        };
        for link in links.iter_mut().filter(|link| link.pid == told) {
            link.signalled_by_run.push(request);
        }
    }
}

/// A process that /proc hides (hidepid). What it does with signals is unknown.
fn hidden_link(pid: i32) -> Link {
    Link {
        pid,
        name: "a hidden process".to_owned(),
        is_first: pid == 1,
        is_pid1: pid == 1,
        term: Handling::Handled,
        tstp: Handling::Handled,
        is_machines: pid == 1 && identity::is_in_first_namespace(),
        ..Link::default()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn shells_and_what_they_have_started() {
        let table = [
            ("bash", "sleep 60; true", false),
            ("bash", "sleep 60 & wait", true),
            ("dash", "sleep 60; true", false),
            ("dash", "sleep 60 & wait", true),
            // Everything below a shell that was started with & ignores both.
            ("bash", "(trap '' INT QUIT; exec bash -c 'sleep 60; true')", false),
        ];
        for (shell, script, child_in_background) in table {
            // The tests themselves may have been started with &, and the shells below inherit that.
            let started = Command::new("env").args(["--default-signal=INT,QUIT", shell, "-c", script]).spawn();
            let Ok(mut child) = started else { continue };
            let id = child.id();
            let of =
                |name: &str| Snapshot::all().into_iter().find(|process| process.name == name && is_below(process, id));
            let sleep = loop {
                if let Some(sleep) = of("sleep") {
                    break Some(sleep);
                }
                if child.try_wait().unwrap().is_some() {
                    break None; // that shell is not here
                }
            };
            let Some(sleep) = sleep else { continue };
            let parent = Snapshot::of(sleep.parent).unwrap();
            assert_eq!(parent.link(Some(&sleep)).child_in_background, child_in_background, "{shell} {script}");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleep.pid), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
        }
    }

    fn is_below(process: &Snapshot, pid: u32) -> bool {
        Snapshot::chain(process.pid).iter().any(|above| u32::try_from(above.pid) == Ok(pid))
    }

    #[test]
    fn a_chain_goes_from_a_process_to_its_ancestors() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let chain = Snapshot::chain(pid);
        assert_eq!(chain[0].pid, pid);
        assert_eq!(chain[1].pid, nix::unistd::getpid().as_raw());
        assert_eq!(chain[1].pid, chain[0].parent);
        assert!(Snapshot::all().iter().any(|snapshot| snapshot.pid == pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Snapshot::of(pid), None);
    }
}
