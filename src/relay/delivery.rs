//! The delivery of a signal to a traced process: which processes get it, and when.

use std::time::Instant;

use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

use super::state::{ENDING, GRACE, Relay, Watched};
use crate::model::forwarding::{self, Handlers, stops, suspends};
use crate::model::program::Program;
use crate::model::recipients;
use crate::model::relay_message::Message;
use crate::model::shell_traps;
use crate::model::signal_path::{Effect, Handling, Link, Request};
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;
use crate::sys::ptrace::Sender;
use crate::sys::signals::disposition;

impl Relay {
    /// Handles a signal's delivery; returns the signal that the process gets (0: none).
    pub(super) fn deliver(&mut self, pid: i32, sender: Sender, signal: i32) -> i32 {
        if signal == libc::SIGSTOP {
            return self.deliver_stop(pid, sender);
        }
        if self.holds.contains(&pid) {
            self.record_stop(pid, signal);
            return signal;
        }
        // A key at the terminal signals the whole foreground group, the worker included. And a process that has
        // outlived the worker acts in its own way.
        let is_alone = self.ended.is_some() && self.peers.is_empty();
        if sender == Sender::Terminal || self.to_be_terminated.contains(&pid) || (is_alone && !suspends(signal)) {
            return signal;
        }
        let Some(snapshot) = Snapshot::of(pid) else { return signal };
        if is_alone {
            // It was meant for the worker. A suspended shell would not end, nor receive the TERM that follows.
            return if is_handled(&snapshot, signal) { signal } else { 0 };
        }
        self.record_stop(pid, signal);
        // A TERM would make timeout(1) start the time of its `-k`.
        if is_handled(&snapshot, signal) && snapshot.program() != Program::Timeout {
            if !self.decides(&snapshot) {
                self.watch(signal, Some(pid));
                self.message_peers(pid, Message::Watch(signal));
            }
            return signal;
        }
        self.record_followers(pid, signal);
        let message = match self.forward(pid, signal) {
            Some(supervisor) => Message::SentTo(signal, supervisor),
            None => Message::Forward(signal, pid),
        };
        self.message_peers(pid, message);
        0
    }

    /// PID 1 is not suspended by its own container; the kernel would prevent that if it were not traced. And
    /// dumb-init turns TSTP (TTIN, TTOU) into SIGSTOP, for its child's group and then for itself.
    pub(super) fn deliver_stop(&mut self, pid: i32, sender: Sender) -> i32 {
        let Sender::Process(sender) = sender else { return libc::SIGSTOP };
        let is_dumb_init = |pid| Snapshot::of(pid).is_some_and(|snapshot| snapshot.program() == Program::DumbInit);
        if sender == pid && is_dumb_init(pid) {
            let child = self.child_towards_worker(pid);
            let group = child.and_then(|child| getpgid(Some(Pid::from_raw(child.pid))).ok());
            let _ = group.map(|group| killpg(group, Signal::SIGCONT));
            let _ = self.worker.signal(libc::SIGCONT);
            self.signal_worker(libc::SIGTSTP);
            self.message_peers(pid, Message::Forward(libc::SIGTSTP, pid));
            return 0;
        }
        let is_from_above = self.traced.contains(&sender) && is_dumb_init(sender);
        if is_from_above || (pid == 1 && sender != 0) { 0 } else { libc::SIGSTOP }
    }

    /// Whether a program with a handler of its own decides.
    pub(super) fn decides(&self, snapshot: &Snapshot) -> bool {
        match snapshot.program() {
            Program::Shell => self
                .child_towards_worker(snapshot.pid)
                .is_some_and(|child| shell_traps::run_at_once(snapshot.for_traps(), child.for_traps())),
            _ => true,
        }
    }

    /// Forwards a signal that goes no further at `pid` to the worker, or to a program in between that handles it: a
    /// supervisor knows better what to do, and decides. Returns the pid of that program.
    pub(super) fn forward(&mut self, pid: i32, signal: i32) -> Option<i32> {
        self.record_stop(pid, signal);
        let supervisor = self.supervisor(pid, signal);
        match &supervisor {
            Some(supervisor) => drop(supervisor.signal(signal)),
            None => self.signal_worker(signal),
        }
        supervisor.map(|supervisor| supervisor.pid)
    }

    /// The relay `owner` has sent the signal to a supervisor; that may be another worker's.
    pub(super) fn forward_unless_below(&mut self, supervisor: i32, owner: i32, signal: i32) {
        let is_below = Snapshot::chain(self.worker.pid).iter().any(|above| above.pid == supervisor);
        let shell = self.owners.iter().find(|(_, relay)| relay.pid == owner).map(|(shell, _)| *shell);
        match shell {
            Some(shell) if is_below => self.record_stop(shell, signal),
            Some(shell) => drop(self.forward(shell, signal)),
            None => {}
        }
    }

    pub(super) fn signal_worker(&mut self, signal: i32) {
        let Some(signal) = self.for_worker(signal) else { return };
        if stops(signal) {
            self.stopping.get_or_insert_with(Instant::now);
        }
        if is_confirmed(signal) && !self.unconfirmed.contains(&signal) {
            self.unconfirmed.push(signal);
        }
        let _ = self.worker.signal(signal);
        if signal == libc::SIGTSTP {
            self.was_quieted = true;
            self.continue_siblings();
        }
    }

    pub(super) fn for_worker(&self, signal: i32) -> Option<i32> {
        let caught = Snapshot::of(self.worker.pid).map(|worker| worker.caught.0);
        forwarding::forwarded(signal, Handlers { caught, trapped: self.trapped })
    }

    /// A script has signalled the newest process of a Sidekiq, or all processes of its group or user. If the worker
    /// does not receive the signal by itself, the relay sends it.
    pub(super) fn signalled_itself(&mut self, signal: i32) {
        match self.for_worker(signal) {
            Some(signal) if is_confirmed(signal) => self.watch(signal, None),
            Some(_) => self.signal_worker(signal),
            None => {}
        }
    }

    /// A TSTP meant for Sidekiq has suspended others of its group, such as the cat of a pipeline: Sidekiq would soon
    /// block on its pipe.
    pub(super) fn continue_siblings(&self) {
        let is_sibling = |snapshot: &Snapshot| snapshot.state == 'T' && !self.traced.contains(&snapshot.pid);
        let children = self.traced.iter().flat_map(|pid| Snapshot::children(*pid));
        for sibling in children.filter(is_sibling) {
            let _ = kill(Pid::from_raw(sibling.pid), Signal::SIGCONT);
        }
    }

    pub(super) fn stop_worker(&mut self) {
        if self.stopping.is_none() {
            self.signal_worker(libc::SIGTERM);
        }
    }

    /// Waits only for signals that the worker reports when it receives them.
    pub(super) fn watch(&mut self, signal: i32, shell: Option<i32>) {
        if self.for_worker(signal).is_some_and(is_confirmed) {
            self.watched.push(Watched { signal, since: Instant::now(), shell });
        }
    }

    /// A shell has a handler for the signals that it received, and decides what becomes of them.
    pub(super) fn leave_decision_to(&mut self, shell: i32) {
        let (decided, watched): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watched).into_iter().partition(|watched| watched.shell == Some(shell));
        self.watched = watched;
        for watched in decided {
            self.message_peers(shell, Message::HandledBy(watched.signal));
        }
    }

    pub(super) fn forward_overdue(&mut self) {
        let (due, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watched).into_iter().partition(|watched| watched.since.elapsed() >= GRACE);
        self.watched = waiting;
        for Watched { signal, since, .. } in due {
            let is_stopping = self.stopping.is_some() && stops(signal);
            let has_heard = self.heard.is_some_and(|heard| heard >= since) || is_stopping;
            if !has_heard {
                self.signal_worker(signal);
            }
        }
    }

    /// A program with a handler of its own between `pid` and the worker.
    pub(super) fn supervisor(&self, pid: i32, signal: i32) -> Option<PidFd> {
        let chain = Snapshot::chain(self.worker.pid);
        let between = chain.iter().skip(1).take_while(|snapshot| snapshot.pid != pid);
        let speaks = |snapshot: &&Snapshot| snapshot.program().decides() && is_handled(snapshot, signal);
        between.filter(speaks).last().and_then(|snapshot| PidFd::open(snapshot.pid).ok())
    }

    pub(super) fn record_stop(&mut self, pid: i32, signal: i32) {
        if !stops(signal) {
            return;
        }
        self.stop_requested_at = Some(Instant::now());
        if !self.stop_requested.contains(&pid) {
            self.stop_requested.push(pid);
        }
    }

    /// Remembers processes beside the worker that nobody signals, because the shell that would have died of the
    /// signal lives on. They are signalled when the worker has ended, by the same rule as in `run`, unless the sender
    /// has signalled the whole group.
    pub(super) fn record_followers(&mut self, pid: i32, signal: i32) {
        let is_grouped = |link: &Link| link.effect(Request::Stop) == Effect::ForwardsToGroup;
        if !stops(signal) || !self.followers.is_empty() || Snapshot::path(pid).links().iter().any(is_grouped) {
            return;
        }
        let snapshots = Snapshot::of(pid).into_iter().chain(Snapshot::below(pid));
        let processes: Vec<_> = snapshots.map(|snapshot| snapshot.for_recipients(None)).collect();
        let above: Vec<i32> = Snapshot::chain(self.worker.pid).iter().map(|link| link.pid).collect();
        let beside = recipients::recipients(&processes, &[pid], Signal::SIGTERM.into()).followers.into_iter();
        self.followers = beside.filter(|pid| !above.contains(pid)).filter_map(|pid| PidFd::open(pid).ok()).collect();
    }

    pub(super) fn stop_followers(&mut self) {
        if self.ended.is_some_and(|ended| ended.elapsed() >= ENDING) && self.peers.is_empty() {
            for follower in std::mem::take(&mut self.followers) {
                let _ = follower.signal(libc::SIGTERM);
            }
        }
    }
}

fn is_handled(snapshot: &Snapshot, signal: i32) -> bool {
    Signal::try_from(signal).is_ok_and(|signal| snapshot.handling(signal) == Handling::Handled)
}

/// Whether the worker reports the signal to its relay when it receives it.
fn is_confirmed(signal: i32) -> bool {
    disposition::OBSERVED.into_iter().any(|observed| observed as i32 == signal)
}
