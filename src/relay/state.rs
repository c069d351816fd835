//! The state of a relay.

use std::time::{Duration, Instant};

use crate::sys::failsafe::Failsafe;
use crate::sys::mailbox::Inbox;
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;

/// How long a shell that does nothing with a signal can withhold it from the worker.
pub(super) const GRACE: Duration = Duration::from_millis(300);

/// How long a shell may take to signal others by itself once its worker has ended.
pub(super) const ENDING: Duration = Duration::from_millis(500);

/// How long the relay stays once its worker has ended in a stop, for a Sidekiq that is restarted meanwhile: it would
/// be killed with its jobs, so it is stopped as well. 120 s is the longest stop timeout of ECS on Fargate.
pub(super) const AFTERWARDS: Duration = Duration::from_secs(120);

/// A signal that a shell with a handler has received.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) signal: i32,
    pub(super) since: Instant,
    /// The shell, if this relay traces it.
    pub(super) shell: Option<i32>,
}

#[derive(Debug)]
pub(super) struct Relay {
    pub(super) worker: PidFd,
    pub(super) inbox: Inbox,
    pub(super) failsafe: Failsafe,
    /// The traced processes.
    pub(super) traced: Vec<i32>,
    /// Their further threads, each with its process; also those of processes that are no longer traced, until they
    /// have been released.
    pub(super) threads: Vec<(i32, i32)>,
    /// The traced processes that are only held at their exit.
    pub(super) holds: Vec<i32>,
    /// The traced processes with other threads or handlers than a shell: their system calls are traced only during a
    /// stop.
    pub(super) busy: Vec<i32>,
    /// Threads that are about to exit with their process, and wait for the worker.
    pub(super) held: Vec<i32>,
    /// Processes to be stopped once the worker has ended.
    pub(super) followers: Vec<PidFd>,
    /// Other relays, each with the process of [`Self::traced`] that is above its worker as well.
    pub(super) peers: Vec<(i32, PidFd)>,
    /// Other relays, each with the process that it traces in place of this one.
    pub(super) owners: Vec<(i32, PidFd)>,
    /// Signals that shells with handlers have received.
    pub(super) watched: Vec<Watched>,
    /// When the worker last received a signal that this relay had not sent.
    pub(super) heard: Option<Instant>,
    /// The signals that this relay has sent, and the worker has not confirmed yet.
    pub(super) unconfirmed: Vec<i32>,
    /// When the worker was stopped.
    pub(super) stopping: Option<Instant>,
    /// How long a stop takes at most, the worker's own and its peers'.
    pub(super) limit: Duration,
    /// The signals that the application has traps of its own for.
    pub(super) trapped: u64,
    /// The processes that have received a stop signal from outside.
    pub(super) stop_requested: Vec<i32>,
    /// When the last of these signals arrived: a program that lives on must not stay slow for ever.
    pub(super) stop_requested_at: Option<Instant>,
    /// Shells that get their TERM after all.
    pub(super) to_be_terminated: Vec<i32>,
    /// When the worker ended.
    pub(super) ended: Option<Instant>,
    /// The worker was quieted by a TSTP that this relay forwarded.
    pub(super) was_quieted: bool,
    /// A traced process may end before the worker does.
    pub(super) may_exit_first: bool,
    /// The traced processes that are stopped at each system call.
    pub(super) seen: Vec<i32>,
    /// Traced processes that have become another program, and when. What that program is shows only once it has
    /// started.
    pub(super) changed: Vec<(i32, Instant)>,
}

impl Relay {
    pub(super) fn new(worker: PidFd, inbox: Inbox, failsafe: Failsafe, limit: Duration) -> Self {
        Self {
            worker,
            inbox,
            failsafe,
            traced: Vec::new(),
            threads: Vec::new(),
            holds: Vec::new(),
            busy: Vec::new(),
            held: Vec::new(),
            followers: Vec::new(),
            peers: Vec::new(),
            owners: Vec::new(),
            watched: Vec::new(),
            heard: None,
            unconfirmed: Vec::new(),
            stopping: None,
            limit,
            trapped: 0,
            stop_requested: Vec::new(),
            stop_requested_at: None,
            to_be_terminated: Vec::new(),
            ended: None,
            was_quieted: false,
            may_exit_first: false,
            seen: Vec::new(),
            changed: Vec::new(),
        }
    }

    pub(super) fn is_needed(&self) -> bool {
        !self.traced.is_empty() || !self.owners.is_empty() || !self.peers.is_empty()
    }

    /// Whether a worker below the process is still running.
    pub(super) fn worker_is_running(&self, pid: i32) -> bool {
        self.ended.is_none() || self.peers.iter().any(|(traced, _)| *traced == pid)
    }

    /// Whether the worker, and its peers, have had enough time to stop.
    pub(super) fn is_over(&self) -> bool {
        self.stopping.is_some_and(|since| since.elapsed() >= self.limit)
    }

    pub(super) fn child_towards_worker(&self, pid: i32) -> Option<Snapshot> {
        Snapshot::chain(self.worker.pid).into_iter().find(|child| child.parent == pid)
    }

    pub(super) fn threads_of(&self, pid: i32) -> Vec<i32> {
        let further = self.threads.iter().filter(|(_, process)| *process == pid).map(|(thread, _)| *thread);
        std::iter::once(pid).chain(further).collect()
    }

    pub(super) fn has_changed(&self, pid: i32) -> bool {
        self.changed.iter().any(|(changed, _)| *changed == pid)
    }
}
