//! The relay's process. It traces shells (`ptrace(2)`) and so takes part in each signal's delivery:
//!
//! - A shell without a handler for the signal does not get it; Sidekiq does. The shell lives on, waits for Sidekiq as
//!   it would have, and exits with its status.
//! - A shell with a handler gets it. A handler that runs at once decides alone. A deferred one, such as a trap while
//!   its shell waits for a foreground command, does not: if Sidekiq has not received the signal a moment later, the
//!   relay sends it.
//! - If everything that still runs would be killed at a shell's exit, the shell is held there until Sidekiq has
//!   ended, but not longer than Sidekiq needs.
//! - A program that handles TERM, such as Puma or a supervisor, gets all of its signals and decides. It is only held
//!   at its exit, and Sidekiq is signalled then, unless it has been.
//! - A process beside Sidekiq that handles TERM, such as a web server, is signalled once Sidekiq has ended, if its
//!   shell was kept from dying of that TERM.
//!
//! Nothing is held against a SIGKILL. A shell that dies of one is released at once. A shell that may end before the
//! worker is stopped at its system calls, and held before it starts to exit, where a SIGKILL still ends it. That
//! concerns a shell with the worker in its background, all shells once one of them has ended, and all shells during a
//! stop. A program with several threads, or with a handler for TERM, runs at full speed until it receives a stop
//! signal. If the relay is stopped or stuck, the kernel ensures that nothing waits for it ([`Failsafe`]).
//!
//! Several Sidekiqs below one shell have one relay each; the first one traces the shell, and reports its signals to
//! the others at their request.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::report::Report;
use super::state::{AFTERWARDS, GRACE, Relay};
use crate::model::program::RELAY;
use crate::model::relay_message::Message;
use crate::model::trace_denied::{Call, Refusal};
use crate::sys::failsafe::Failsafe;
use crate::sys::identity;
use crate::sys::mailbox::{Inbox, Mail};
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;
use crate::sys::ptrace;

/// `signal-relay PID START_TIME SECONDS [start]`: the worker, and how long it takes to stop at most.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let number = |index: usize| arguments.get(index).and_then(|word| word.parse::<u64>().ok());
    let pid = number(0).and_then(|pid| i32::try_from(pid).ok());
    let (Some(pid), Some(start_time), Some(seconds)) = (pid, number(1), number(2)) else {
        eprintln!("{RELAY} is started by the gem sidekiq_lifecycle and has no other use");
        return ExitCode::from(2);
    };
    let _ = prctl::set_name(&std::ffi::CString::new(RELAY).unwrap_or_default());
    let done = match arguments.get(3) {
        Some(_) => again(arguments),
        None => relay(pid, start_time, Duration::from_secs(seconds)).inspect_err(|error| {
            // For the process that waits for it. If the relay has already reported, nobody reads this.
            let _ = report(&Report { failure: Some(error.to_string()), ..Report::default() });
        }),
    };
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn again(arguments: &[String]) -> io::Result<()> {
    let own = arguments.iter().take(3);
    Command::new("/proc/self/exe").arg0(RELAY).args(own).stdin(Stdio::null()).spawn().map(drop)
}

fn relay(pid: i32, start_time: u64, limit: Duration) -> io::Result<()> {
    // Signals to the worker's group or session, or from its terminal, are not meant for the relay.
    setsid().map_err(|errno| io::Error::other(format!("setsid: {errno}")))?;
    close_inherited();
    let mut relay = match prepare(pid, limit) {
        Ok(relay) => relay,
        Err(refusal) => return report(&Report { refused: vec![(pid, refusal)], ..Report::default() }),
    };
    if identity::start_time(pid) != Some(start_time) {
        return Err(Errno::ESRCH.into());
    }
    let stopped: Vec<i32> = Snapshot::chain(pid).iter().filter(|link| link.state == 'T').map(|link| link.pid).collect();
    let refused = relay.trace_path();
    relay.await_owners();
    // A TSTP came before the relay: a suspended shell would not see Sidekiq end, nor receive any signal.
    for pid in stopped.into_iter().filter(|pid| relay.traced.contains(pid)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    let is_needed = relay.is_needed();
    report(&Report { pid: is_needed.then(|| nix::unistd::getpid().as_raw()), refused, failure: None })?;
    if is_needed {
        let null = fs::File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        drop(null);
        relay.watch_system_calls();
        relay.run();
    }
    Ok(())
}

/// Nothing is traced before every system call that the relay needs has been tested.
fn prepare(pid: i32, limit: Duration) -> Result<Relay, Refusal> {
    let worker = PidFd::open(pid).map_err(not_opened)?;
    let inbox = Inbox::open()?;
    ptrace::verify(&worker)?;
    Ok(Relay::new(worker, inbox, Failsafe::start()?, limit))
}

fn report(report: &Report) -> io::Result<()> {
    let mut out = io::stdout();
    serde_json::to_writer(&mut out, report)?;
    out.flush()
}

/// Closes descriptors inherited without close-on-exec: an open one would keep a pipe open.
fn close_inherited() {
    let names = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // One of them is the directory's own, and closed when all are read.
    let numbers: Vec<i32> = names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        let _ = nix::unistd::close(number);
    }
}

impl Relay {
    pub(super) fn run(&mut self) {
        loop {
            let _ = self.failsafe.awake();
            // First, because it also removes the notifications of stops: those from here on wake the relay again.
            for mail in self.inbox.read() {
                match mail {
                    Mail::Message(sender, Message::Leave) if sender == self.worker.pid => return,
                    Mail::Message(sender, message) => self.receive(sender, message),
                    Mail::Signal(signal) => self.signalled_itself(signal),
                }
            }
            while let Some((thread, stop)) = ptrace::next_stop() {
                // One that is gone meanwhile will be reported as ended.
                let _ = self.on_stop(thread, stop);
            }
            self.forward_overdue();
            self.peers.retain(|(_, peer)| !peer.has_ended());
            let owners = self.owners.len();
            self.owners.retain(|(_, owner)| !owner.has_ended());
            if self.owners.len() < owners {
                self.trace_path();
            }
            self.check_worker();
            self.release_held();
            self.stop_followers();
            if self.is_done() {
                // The kernel releases all traced processes.
                return;
            }
            self.watch_system_calls();
            self.recheck_changed();
            self.failsafe.asleep();
            self.wait();
        }
    }

    /// The worker's stop is over for processes that outlive it: at once if nothing else was signalled.
    pub(super) fn check_worker(&mut self) {
        if !self.worker.has_ended() {
            return;
        }
        self.ended.get_or_insert_with(Instant::now);
        let afterwards = if self.stop_requested.is_empty() { Duration::ZERO } else { self.limit + AFTERWARDS };
        let is_past = |since: Instant| since.elapsed() >= afterwards;
        if self.held.is_empty() && self.stopping.is_some_and(is_past) {
            self.stopping = None;
            self.stop_requested.clear();
        }
    }

    pub(super) fn is_done(&self) -> bool {
        let stays = self.stop_requested.iter().any(|pid| self.traced.contains(pid));
        let is_over = self.ended.is_some_and(|ended| !stays || ended.elapsed() >= AFTERWARDS);
        (is_over && self.peers.is_empty()) || !self.is_needed()
    }

    /// Sleeps until something happens; until the next tick at the latest.
    pub(super) fn wait(&self) {
        let worker = Some(&self.worker).filter(|_| self.ended.is_none());
        let others = self.peers.iter().chain(&self.owners).map(|(_, relay)| relay);
        let handles = worker.into_iter().chain(others);
        let descriptors = std::iter::once(self.inbox.as_fd()).chain(handles.map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let next = self.watched.iter().map(|watched| GRACE.saturating_sub(watched.since.elapsed())).min();
        // Rounded up, or the last millisecond would be spent awake.
        let timeout = next.and_then(|time| PollTimeout::try_from(time.as_millis() + 1).ok());
        let slept = poll(&mut polled, timeout.unwrap_or(PollTimeout::NONE));
        if slept.is_err_and(|errno| errno != Errno::EINTR) {
            // If the call fails, it must not make the relay busy.
            std::thread::sleep(GRACE);
        }
    }
}

/// Why a process cannot be opened with pidfd_open(2), which Linux has had since 5.3.
fn not_opened(errno: Errno) -> Refusal {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or_default());
    if errno == Errno::ENOSYS && version < (5, 3) {
        return Refusal::OldKernel;
    }
    Refusal::Call(Call::PidfdOpen, errno as i32)
}
