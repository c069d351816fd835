//! Which processes a relay traces, how far each runs on, and which ones are held at their exit.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use super::state::{AFTERWARDS, Relay};
use crate::model::forwarding::FORWARDED;
use crate::model::program::Program;
use crate::model::relay_message::Message;
use crate::model::shell_traps;
use crate::model::trace_denied::{Evidence, Refusal};
use crate::sys::mailbox;
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;
use crate::sys::ptrace::{self, Stop, Until};

/// How long a program may take to set its handlers and to start its threads.
const BEGINNING: Duration = Duration::from_secs(60);

impl Relay {
    /// Traces the processes of the path, or joins the relay that does; returns those where neither is possible.
    pub(super) fn trace_path(&mut self) -> Vec<(i32, Refusal)> {
        let mut refused = Vec::new();
        let path = Snapshot::path(self.worker.pid).without_relay();
        // It does not wait for a process that it has started with `&`.
        self.may_exit_first |=
            path.links().iter().any(|link| link.program == Program::Shell && link.child_in_background);
        for pid in path.to_be_relayed() {
            if self.traced.contains(&pid) || self.owners.iter().any(|(traced, _)| *traced == pid) {
                continue;
            }
            let only_waits = !may_be_relayed(pid);
            match ptrace::seize(pid) {
                Ok(()) => self.track(pid, only_waits),
                Err(Errno::ESRCH) => {}
                Err(_) if self.join_owner(pid) || only_waits => {}
                Err(_) => refused.push((pid, refusal(pid))),
            }
        }
        refused
    }

    pub(super) fn track(&mut self, pid: i32, only_waits: bool) {
        self.traced.push(pid);
        let threads = ptrace::threads(pid).into_iter().filter(|thread| *thread != pid);
        self.threads.extend(threads.map(|thread| (thread, pid)));
        if only_waits {
            self.holds.push(pid);
        }
        if only_waits || Snapshot::of(pid).is_some_and(|snapshot| snapshot.threads > 1) {
            self.busy.push(pid);
        }
    }

    /// The process of a thread, if it is traced.
    pub(super) fn process_of(&mut self, thread: i32) -> Option<i32> {
        let is_thread = |known: &&(i32, i32)| known.0 == thread;
        let pid = match self.threads.iter().find(is_thread) {
            _ if self.traced.contains(&thread) => thread,
            Some((_, pid)) => *pid,
            // It has just started.
            None => {
                let pid = ptrace::process_of(thread)?;
                self.threads.push((thread, pid));
                if self.traced.contains(&pid) && !self.busy.contains(&pid) {
                    self.busy.push(pid);
                }
                pid
            }
        };
        self.traced.contains(&pid).then_some(pid)
    }

    /// Asks the relay that traces `pid`, if one does, to report its signals.
    pub(super) fn join_owner(&mut self, pid: i32) -> bool {
        let tracer = Snapshot::of(pid).map_or(0, |snapshot| snapshot.tracer);
        let is_relay = Snapshot::of(tracer).is_some_and(|tracer| tracer.program() == Program::Relay);
        let Ok(owner) = PidFd::open(tracer) else { return false };
        let joins = is_relay && mailbox::send(&owner, Message::Join(pid)).is_ok();
        if joins {
            let _ = mailbox::send(&owner, self.limit_message());
            self.owners.push((pid, owner));
        }
        joins
    }

    pub(super) fn on_stop(&mut self, thread: i32, stop: Stop) -> nix::Result<()> {
        if stop == Stop::Ended {
            self.forget(thread);
            return Ok(());
        }
        let Some(pid) = self.process_of(thread) else {
            // Of a process that is no longer traced, or was not to be.
            self.threads.retain(|(known, _)| *known != thread);
            return ptrace::release(thread, if let Stop::Signal(number) = stop { number } else { 0 });
        };
        match stop {
            Stop::Signal(number) => self.on_signal(pid, thread, number),
            Stop::Leaving | Stop::Exit if self.must_wait(pid, thread, stop) => {
                self.held.push(thread);
                self.stop_worker();
                self.message_peers(pid, Message::Exiting);
                Ok(())
            }
            Stop::Exec => {
                self.threads.retain(|(_, process)| *process != pid);
                for list in [&mut self.holds, &mut self.busy] {
                    list.retain(|changed| *changed != pid);
                }
                self.changed.retain(|(changed, _)| *changed != pid);
                self.changed.push((pid, Instant::now()));
                self.resume(pid, thread, 0)
            }
            Stop::Passing if self.has_changed(pid) && !blocks_term(pid) && !self.stays_traced(pid) => {
                self.release(pid, thread, 0)
            }
            Stop::Call(call) => {
                if !self.busy.contains(&pid) && !shell_traps::only_waits(call) {
                    self.leave_decision_to(pid);
                }
                self.resume(pid, thread, 0)
            }
            Stop::Exit | Stop::Killed if thread == pid => {
                // The process that waits for it continues now, and may end as well.
                self.may_exit_first = true;
                self.watch_system_calls();
                self.resume(pid, thread, 0)
            }
            Stop::Exit | Stop::Killed | Stop::Leaving | Stop::Passing => self.resume(pid, thread, 0),
            Stop::Group => ptrace::listen(thread),
            Stop::Ended => Ok(()),
        }
    }

    pub(super) fn forget(&mut self, ended: i32) {
        for list in [&mut self.traced, &mut self.holds, &mut self.busy, &mut self.held, &mut self.stop_requested] {
            list.retain(|pid| *pid != ended);
        }
        self.threads.retain(|(thread, process)| *thread != ended && *process != ended);
        self.changed.retain(|(changed, _)| *changed != ended);
        self.peers.retain(|(traced, _)| *traced != ended);
    }

    pub(super) fn on_signal(&mut self, pid: i32, thread: i32, number: i32) -> nix::Result<()> {
        if number == libc::SIGCHLD && self.was_quieted && ptrace::stopped_child(thread).is_some() {
            self.continue_siblings();
        }
        // Other signals do not concern the relay, and must cost a process as little as possible: a shell gets a
        // SIGCHLD for every command that it has started.
        if number != libc::SIGSTOP && !FORWARDED.contains(&number) {
            return self.resume(pid, thread, number);
        }
        if !self.stays_traced(pid) {
            return self.release(pid, thread, number);
        }
        let number = self.deliver(pid, ptrace::sender(thread), number);
        self.watch_system_calls();
        self.resume(pid, thread, number)
    }

    /// Whether the process stays traced: signals may be forwarded past it or, if it has set handlers since, it is
    /// held at its exit.
    pub(super) fn stays_traced(&mut self, pid: i32) -> bool {
        if may_be_relayed(pid) {
            self.holds.retain(|held| *held != pid);
            return true;
        }
        let is_unclear = (self.holds.contains(&pid) || self.has_changed(pid)) && blocks_term(pid);
        let is_held = is_unclear || may_be_held(pid);
        if is_held && !self.holds.contains(&pid) {
            self.holds.push(pid);
        }
        if is_held && !self.busy.contains(&pid) {
            self.busy.push(pid);
        }
        is_held
    }

    /// It has become a program that decides for itself, or has set handlers since.
    pub(super) fn release(&mut self, pid: i32, thread: i32, signal: i32) -> nix::Result<()> {
        let others: Vec<i32> = self.threads_of(pid).into_iter().filter(|other| *other != thread).collect();
        for list in [&mut self.traced, &mut self.holds, &mut self.busy] {
            list.retain(|traced| *traced != pid);
        }
        self.changed.retain(|(changed, _)| *changed != pid);
        // Each is released when it stops for a moment.
        for other in others {
            let _ = ptrace::interrupt(other);
        }
        ptrace::release(thread, signal)
    }

    /// Interrupts processes that have become a program with its own ways, so that they can be released.
    pub(super) fn recheck_changed(&mut self) {
        self.changed.retain(|(_, since)| since.elapsed() < BEGINNING);
        let changed: Vec<i32> = self.changed.iter().map(|(pid, _)| *pid).collect();
        for pid in changed.into_iter().filter(|pid| !may_be_relayed(*pid)) {
            if !self.stays_traced(pid) {
                let _ = ptrace::interrupt(pid);
            }
        }
    }

    pub(super) fn resume(&self, pid: i32, thread: i32, signal: i32) -> nix::Result<()> {
        ptrace::resume(thread, signal, if self.needs_system_calls(pid) { Until::Call } else { Until::Event })
    }

    /// Needed to hold a process before it exits, and while it is unknown whether a shell acts on a signal that it
    /// received.
    pub(super) fn needs_system_calls(&self, pid: i32) -> bool {
        let worker_is_running = self.ended.is_none_or(|_| !self.peers.is_empty());
        if self.busy.contains(&pid) {
            let is_stopping = self.stop_requested_at.is_some_and(|told| told.elapsed() < self.limit + AFTERWARDS);
            return worker_is_running && is_stopping && self.stop_requested.contains(&pid) && !self.is_over();
        }
        let may_leave = self.may_exit_first || self.stopping.is_some() || !self.stop_requested.is_empty();
        worker_is_running && (may_leave || !self.watched.is_empty())
    }

    pub(super) fn watch_system_calls(&mut self) {
        let needed: Vec<i32> = self.traced.iter().copied().filter(|pid| self.needs_system_calls(*pid)).collect();
        for pid in needed.iter().filter(|pid| !self.seen.contains(pid)) {
            for thread in self.threads_of(*pid).iter().filter(|thread| !self.held.contains(thread)) {
                let _ = ptrace::interrupt(*thread);
            }
        }
        self.seen = needed;
    }

    /// Whether this process must wait until the worker has ended, which would be killed if this one ended now. A busy
    /// one that is PID 1 waits only where a SIGKILL still ends it; the kernel releases any other when PID 1 is
    /// killed, and the relay with it.
    pub(super) fn must_wait(&self, pid: i32, thread: i32, stop: Stop) -> bool {
        if !self.worker_is_running(pid) || self.is_over() || self.held.contains(&thread) {
            return false;
        }
        let path = Snapshot::path(pid);
        let is_first = path.links().first().is_some_and(|link| link.is_first);
        let is_possible = stop == Stop::Leaving || (thread == pid && !(is_first && self.busy.contains(&pid)));
        is_possible && path.ends_all(0)
    }

    /// Releases the processes that have waited for the worker, once it has ended or had its time.
    pub(super) fn release_held(&mut self) {
        let is_over = self.is_over();
        for thread in std::mem::take(&mut self.held) {
            let _ = match self.process_of(thread) {
                Some(pid) if !is_over && self.worker_is_running(pid) => {
                    self.held.push(thread);
                    Ok(())
                }
                Some(pid) => self.resume(pid, thread, 0),
                None => ptrace::release(thread, 0),
            };
        }
    }
}

/// Whether signals may be forwarded past it. For a process that is gone it does not matter.
fn may_be_relayed(pid: i32) -> bool {
    Snapshot::of(pid).is_none_or(|snapshot| snapshot.link(None).can_be_relayed())
}

/// Whether it is a program that is held at its exit.
fn may_be_held(pid: i32) -> bool {
    Snapshot::path(pid).can_be_held(0)
}

/// Whether the main thread of a program that is no known init blocks TERM. Most do for a moment only: while a handler for
/// TERM runs, while they fork, and while they start a thread.
fn blocks_term(pid: i32) -> bool {
    let blocks = |it: &Snapshot| it.program() == Program::Other && it.blocked.has(Signal::SIGTERM);
    Snapshot::of(pid).is_some_and(|snapshot| blocks(&snapshot))
}

/// Why a process may not be traced, as far as is known.
fn refusal(pid: i32) -> Refusal {
    let target = Snapshot::of(pid).unwrap_or_default();
    let own = Snapshot::caller().and_then(Snapshot::of).unwrap_or_default();
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    Refusal::of(Evidence {
        other_user: (target.uid != own.uid).then_some(target.uid),
        tracer: target.tracer,
        yama: yama.and_then(|scope| scope.trim().parse().ok()),
        is_capable: own.may_trace_all,
    })
}
