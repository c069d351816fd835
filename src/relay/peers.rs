//! Messages from and to other relays and the worker.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::state::Relay;
use crate::model::forwarding::{self, stops};
use crate::model::relay_message::Message;
use crate::model::signal_path::Handling;
use crate::sys::mailbox::{self, Mail};
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;

/// How long a relay waits for the answer of another one. It takes some milliseconds, unless that one is suspended.
const ANSWER: Duration = Duration::from_millis(500);

impl Relay {
    pub(super) fn receive(&mut self, sender: i32, message: Message) {
        match message {
            Message::Arrived(signal) if sender == self.worker.pid => {
                if stops(signal) {
                    self.stopping.get_or_insert_with(Instant::now);
                }
                match self.unconfirmed.iter().position(|sent| *sent == signal) {
                    Some(sent) => drop(self.unconfirmed.swap_remove(sent)),
                    None => self.heard = Some(Instant::now()),
                }
            }
            Message::Trapped(signal) if sender == self.worker.pid => {
                self.trapped = forwarding::with(self.trapped, signal);
            }
            Message::StopLimit(seconds) if sender == self.worker.pid => {
                self.limit = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
                for (_, owner) in &self.owners {
                    let _ = mailbox::send(owner, self.limit_message());
                }
            }
            Message::StopLimit(seconds) if self.peers.iter().any(|(_, peer)| peer.pid == sender) => {
                self.limit = self.limit.max(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
            }
            Message::Join(pid) if self.traced.contains(&pid) => {
                // Of several workers only one can be in the foreground.
                self.may_exit_first = true;
                let Ok(peer) = PidFd::open(sender) else { return };
                if self.stop_requested.contains(&pid) && !self.holds.contains(&pid) {
                    self.end_restart_loop(pid, &peer);
                }
                // The answer to it; see [`Relay::await_owners`].
                let _ = mailbox::send(&peer, self.limit_message());
                self.peers.push((pid, peer));
            }
            Message::Forward(signal, pid) => drop(self.forward(pid, signal)),
            Message::SentTo(signal, supervisor) => self.forward_unless_below(supervisor, sender, signal),
            Message::Watch(signal) => self.watch(signal, None),
            Message::HandledBy(signal) => self.watched.retain(|watched| watched.signal != signal),
            Message::Exiting => self.stop_worker(),
            Message::Arrived(_) | Message::Join(_) | Message::Leave | Message::Trapped(_) | Message::StopLimit(_) => {}
        }
    }

    /// A shell has restarted a Sidekiq during a stop. That Sidekiq gets the signal that it has missed; and so does
    /// the shell, if it would have died of it without the relay.
    pub(super) fn end_restart_loop(&mut self, pid: i32, peer: &PidFd) {
        let _ = mailbox::send(peer, Message::Forward(libc::SIGTERM, pid));
        let would_end = Snapshot::of(pid).is_some_and(|shell| shell.handling(Signal::SIGTERM) == Handling::Default);
        if pid != 1 && would_end && self.ended.is_some() {
            self.to_be_terminated.push(pid);
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Waits until each owner has answered. If a stop is under way, its SIGTERM comes before that answer: the worker gets it
    /// while it boots, because the boot waits for this relay, and takes no job.
    pub(super) fn await_owners(&mut self) {
        let mut missing: Vec<i32> = self.owners.iter().map(|(_, owner)| owner.pid).collect();
        let until = Instant::now() + ANSWER;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|_| !missing.is_empty()) {
            let mut polled = [PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut polled, PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::ZERO));
            for mail in self.inbox.read() {
                match mail {
                    Mail::Message(sender, Message::StopLimit(_)) if missing.contains(&sender) => {
                        missing.retain(|owner| *owner != sender);
                    }
                    Mail::Message(sender, message) => self.receive(sender, message),
                    Mail::Signal(signal) => self.signalled_itself(signal),
                }
            }
        }
    }

    pub(super) fn limit_message(&self) -> Message {
        Message::StopLimit(i32::try_from(self.limit.as_secs()).unwrap_or(i32::MAX))
    }

    pub(super) fn message_peers(&self, pid: i32, message: Message) {
        for (_, peer) in self.peers.iter().filter(|(traced, _)| *traced == pid) {
            let _ = mailbox::send(peer, message);
        }
    }
}
