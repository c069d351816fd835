//! The life of an init. One thread, which sleeps until a signal arrives, a worker ends, or a deadline has passed.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::iter;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};

use super::options::Options;
use crate::model::recipients::{self, Process, Recipients, STOPPING, STOPS};
use crate::model::signal_map::{self, Number};
use crate::sys::children::{self, Change, Signals};
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::{Pipe, Snapshot};

/// The exit code after --stop-grace has passed.
const KILLED: u8 = 137;

/// How long killed processes may take to end: one may be in a system call that cannot be interrupted.
const DYING: Duration = Duration::from_secs(5);

/// How long a program around the worker may take to end by itself, with its own exit code, once the worker has ended.
const ENDING: Duration = Duration::from_millis(500);

/// How long if it does not sleep: on a busy machine it may be about to end.
const BUSY_ENDING: Duration = Duration::from_secs(5);

/// How often a follower that does not sleep is looked at.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// How often a worker's end is checked for if no event reports it (`pidfd_open(2)` refused).
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(options: Options) -> u8 {
    match Supervision::start(options) {
        Ok(supervision) => supervision.live(),
        Err((code, why)) => {
            log(format_args!("{why}"));
            code
        }
    }
}

/// Standard error may have lost its reader; that is no reason to exit.
fn log(line: fmt::Arguments) {
    // In a single write, because other processes write there as well.
    let _ = io::stderr().write_all(format!("sidekiq-lifecycle run: {line}\n").as_bytes());
}

struct Supervision {
    options: Options,
    signals: Signals,
    /// The command's process, which is also the leader of its process group.
    first: i32,
    /// The command's exit code, once it has ended.
    code: Option<u8>,
    /// The workers that a signal was sent to and, once the command has ended, those that still drain.
    workers: Vec<Worker>,
    /// Processes to be stopped once the workers have ended, and with which signal.
    followers: Vec<Worker>,
    stop: Number,
    /// When the workers ended, for followers that may end by themselves.
    workers_ended: Option<Instant>,
    /// When everything that is left is killed.
    kill_at: Option<Instant>,
    /// When the init exits although workers still drain.
    leave_at: Option<Instant>,
}

struct Worker {
    pid: i32,
    start_time: u64,
    name: String,
    /// TERM, INT or QUIT was sent to it.
    is_stopping: bool,
    /// Readable when it ends; opened only while it drains.
    end: Option<PidFd>,
}

impl Worker {
    fn new(snapshot: &Snapshot) -> Self {
        let name = if snapshot.sidekiq().is_some() { "sidekiq" } else { &snapshot.name };
        Self {
            pid: snapshot.pid,
            start_time: snapshot.start_time,
            name: name.to_owned(),
            is_stopping: false,
            end: None,
        }
    }

    fn is_alive(&self) -> bool {
        self.now().is_some_and(|now| !now.has_ended())
    }

    /// Whether it uses a processor, waits for one, or for a disk.
    fn is_busy(&self) -> bool {
        self.now().is_some_and(|now| matches!(now.state, 'R' | 'D'))
    }

    fn now(&self) -> Option<Snapshot> {
        Snapshot::of(self.pid).filter(|now| now.start_time == self.start_time)
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (pid {})", self.name, self.pid)
    }
}

impl Supervision {
    fn start(options: Options) -> Result<Self, (u8, String)> {
        let refused = |what: &str, error: Errno| (1, format!("cannot {what}: {}", error.desc()));
        let signals = Signals::block().map_err(|error| refused("receive signals", error))?;
        // It would be useless otherwise; a seccomp profile may refuse it.
        kill(Pid::this(), None).map_err(|error| refused("send signals (kill)", error))?;
        if Pid::this().as_raw() != 1 {
            prctl::set_child_subreaper(true).map_err(|error| refused("become a subreaper", error))?;
        }
        if let Some(number) = options.parent_death_signal {
            let set = Signal::try_from(number.raw()).and_then(prctl::set_pdeathsig);
            set.map_err(|error| refused(&format!("request {number} for the parent's death"), error))?;
        }
        let (program, arguments) = options.command.split_first().ok_or((2, "no command given".to_owned()))?;
        let first = children::start(program, arguments).map_err(|error| {
            let (code, why) = match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => {
                    (127, "there is no such program, or the interpreter in its first line is missing".to_owned())
                }
                ErrorKind::PermissionDenied if !children::is_executable(program) => {
                    (126, "this user may not execute it".to_owned())
                }
                _ => (126, error.to_string()),
            };
            (code, format!("cannot run '{}': {why}", Path::new(program).display()))
        })?;
        Ok(Self {
            options,
            signals,
            first,
            code: None,
            workers: Vec::new(),
            followers: Vec::new(),
            stop: Signal::SIGTERM.into(),
            workers_ended: None,
            kill_at: None,
            leave_at: None,
        })
    }

    fn live(mut self) -> u8 {
        let code = loop {
            while let Some(signal) = self.signals.next() {
                if !signal.is_in(&[Signal::SIGCHLD]) {
                    self.on_signal(signal);
                }
            }
            self.reap();
            if self.kill_at.is_some_and(has_come) {
                break self.kill();
            }
            if self.code.is_some()
                || !self.followers.is_empty()
                || self.workers.iter().any(|worker| worker.end.is_some())
            {
                self.workers.retain(Worker::is_alive);
                self.stop_followers();
            }
            if let Some(code) = self.code {
                if self.workers.is_empty() {
                    break code;
                }
                if self.leave_at.is_some_and(has_come) {
                    let seconds = self.options.grace.as_secs_f64();
                    log(format_args!(
                        "exiting with {} still running: --grace of {seconds} s has passed",
                        list(&self.workers)
                    ));
                    break code;
                }
            }
            let until = [self.kill_at, self.leave_at, self.next_check()].into_iter().flatten().min();
            self.signals.sleep(self.workers.iter().filter_map(|worker| worker.end.as_ref()), until);
        };
        if children::foreground() == Some(self.first) {
            children::lend_terminal(getpgrp().as_raw());
        }
        signal_map::code(&self.options.codes, code)
    }

    // ---- signals ----

    fn on_signal(&mut self, arrived: Number) {
        if arrived.is_in(&STOPS) && self.kill_at.is_none() {
            self.kill_at = self.options.stop_grace.and_then(|grace| Instant::now().checked_add(grace));
        }
        let Some(signal) = signal_map::signal(&self.options.signals, arrived) else {
            self.log_verbose(format_args!("{arrived} dropped"));
            return;
        };
        let by_group = self.options.group && self.code.is_none();
        let snapshots = self.relevant_processes(by_group);
        let processes = processes(&snapshots);
        let draining = || self.workers.iter().map(|worker| worker.pid).collect();
        let roots = if self.code.is_none() { vec![self.first] } else { draining() };
        let mut found = recipients::recipients(&processes, &roots, signal);
        found.spare_from_suspension(&processes, signal);
        if found.between.is_empty() && found.workers.is_empty() {
            self.log_verbose(format_args!("{signal} dropped: no process here handles it"));
        }
        self.remember(&found, &snapshots);
        if by_group {
            self.send_to_group(signal, &processes);
        } else {
            self.send(signal, &found);
            self.follow(signal, &found, &snapshots);
        }
    }

    /// The command and what is below it, while it runs; a Sidekiq is all that is needed.
    fn relevant_processes(&self, by_group: bool) -> Vec<Snapshot> {
        if by_group || self.code.is_some() {
            return descendants();
        }
        let Some(first) = Snapshot::of(self.first).filter(|first| !first.has_ended()) else { return Vec::new() };
        let below = if first.sidekiq().is_some() { Vec::new() } else { Snapshot::below(self.first) };
        iter::once(first).chain(below).collect()
    }

    fn remember(&mut self, found: &Recipients, snapshots: &[Snapshot]) {
        for worker in &found.workers {
            let is_known = |snapshot: &Snapshot| {
                self.workers.iter().any(|known| known.pid == snapshot.pid && known.start_time == snapshot.start_time)
            };
            let snapshot = snapshots.iter().find(|snapshot| snapshot.pid == worker.pid);
            if let Some(snapshot) = snapshot.filter(|snapshot| !is_known(snapshot)) {
                self.workers.retain(|known| known.pid != snapshot.pid);
                self.workers.push(Worker::new(snapshot));
            }
        }
    }

    fn send(&mut self, signal: Number, found: &Recipients) {
        for pid in &found.between {
            self.log_verbose(format_args!("{signal} to pid {pid}, a process in front of the worker"));
            let _ = children::send(*pid, signal);
        }
        for worker in &found.workers {
            let known = self.workers.iter_mut().find(|known| known.pid == worker.pid);
            let name = known.as_ref().map_or_else(|| format!("pid {}", worker.pid), ToString::to_string);
            if worker.decider.is_some() {
                self.log_verbose(format_args!("{signal} not sent to {name}: its shell decides"));
                continue;
            }
            if let Some(known) = known {
                known.is_stopping |= signal.is_in(&STOPS);
            }
            self.log_verbose(format_args!("{signal} to {name}"));
            // A process that has ended meanwhile no longer needs it.
            match children::send(worker.pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => log(format_args!("cannot send {signal} to {name}: {}", error.desc())),
            }
        }
    }

    // ---- followers of the workers ----

    fn follow(&mut self, signal: Number, found: &Recipients, snapshots: &[Snapshot]) {
        if found.followers.is_empty() {
            return;
        }
        let followers = snapshots.iter().filter(|snapshot| found.followers.contains(&snapshot.pid));
        self.followers = followers.map(Worker::new).collect();
        self.stop = signal;
        for worker in self.workers.iter_mut().filter(|worker| worker.end.is_none()) {
            worker.end = PidFd::open(worker.pid).ok();
        }
    }

    /// Stops the followers once the workers have ended: at once if the command has ended as well, otherwise a moment
    /// later, because a program around the worker ends by itself then.
    fn stop_followers(&mut self) {
        if self.followers.is_empty() || !self.workers.is_empty() {
            self.workers_ended = None;
            return;
        }
        let ended = *self.workers_ended.get_or_insert_with(Instant::now);
        if self.code.is_none() && self.may_end_by_themselves(ended) {
            return;
        }
        self.workers_ended = None;
        let followers = std::mem::take(&mut self.followers).into_iter();
        self.workers = followers.filter(Worker::is_alive).collect();
        for follower in &mut self.workers {
            if self.options.verbose {
                log(format_args!("{} to {follower}, because its worker has ended", self.stop));
            }
            let _ = children::send(follower.pid, self.stop);
            follower.is_stopping = true;
            follower.end = PidFd::open(follower.pid).ok();
        }
        if let Some(code) = self.code {
            self.wait_for_workers(code);
        }
    }

    fn may_end_by_themselves(&self, workers_ended: Instant) -> bool {
        let since = workers_ended.elapsed();
        since < ENDING || (since < BUSY_ENDING && self.followers.iter().any(Worker::is_busy))
    }

    /// When to look at the followers, and whether a worker has ended if no event reports it.
    fn next_check(&self) -> Option<Instant> {
        if let Some(ended) = self.workers_ended {
            return Some((ended + ENDING).max(Instant::now() + BUSY_INTERVAL));
        }
        let is_unseen = !self.followers.is_empty() && self.workers.iter().any(|worker| worker.end.is_none());
        is_unseen.then(|| Instant::now() + CHECK_INTERVAL)
    }

    fn send_to_group(&mut self, signal: Number, processes: &[Process]) {
        self.log_verbose(format_args!("{signal} to process group {}", self.first));
        let _ = children::send(-self.first, signal);
        for worker in &mut self.workers {
            let group = getpgid(Some(Pid::from_raw(worker.pid))).map(Pid::as_raw);
            worker.is_stopping |= signal.is_in(&STOPS) && group == Ok(self.first);
        }
        // A shell that is suspended would not see its worker end, and a worker whose pipe nobody reads would block.
        if signal.is_in(&STOPPING) {
            let is_worker = |pid| self.workers.iter().any(|worker| worker.pid == pid);
            let stopped = processes.iter().filter(|process| !process.handles(signal));
            for process in stopped.filter(|process| !is_worker(process.pid)) {
                let _ = children::send(process.pid, Signal::SIGCONT.into());
            }
        }
    }

    fn log_verbose(&self, line: fmt::Arguments) {
        if self.options.verbose {
            log(line);
        }
    }

    // ---- children ----

    fn reap(&mut self) {
        while let Some(change) = children::reap() {
            match change {
                Change::Ended(pid, code) if pid == self.first && self.code.is_none() => self.first_has_ended(code),
                Change::Stopped(pid, signal) if pid == self.first => self.first_has_stopped(signal),
                _ => {}
            }
        }
    }

    /// A worker that outlives the command is not killed with it: it is stopped, and waited for.
    fn first_has_ended(&mut self, code: u8) {
        self.code = Some(code);
        // Whatever outlives the command is a child now, or below one.
        if self.options.grace.is_zero() || !children::exist() {
            self.workers.clear();
            self.followers.clear();
            return;
        }
        let snapshots = descendants();
        let workers = recipients::sidekiqs(&processes(&snapshots), Pid::this().as_raw()).into_iter();
        let workers = workers.map(|pid| recipients::Worker { pid, decider: None }).collect();
        self.remember(&Recipients { workers, ..Recipients::default() }, &snapshots);
        self.workers.retain(Worker::is_alive);
        self.wait_for_workers(code);
        for worker in &mut self.workers {
            worker.end = PidFd::open(worker.pid).ok();
            if !worker.is_stopping {
                worker.is_stopping = true;
                let _ = children::send(worker.pid, Signal::SIGTERM.into());
            }
            // One that a TSTP for the group has suspended would not handle it.
            if Snapshot::of(worker.pid).is_some_and(|worker| worker.state == 'T') {
                let _ = children::send(worker.pid, Signal::SIGCONT.into());
            }
        }
    }

    /// The command has ended, and workers have not.
    fn wait_for_workers(&mut self, code: u8) {
        if self.workers.is_empty() {
            return;
        }
        let leave_at = Instant::now().checked_add(self.options.grace);
        self.leave_at = self.leave_at.or(leave_at);
        let seconds = self.options.grace.as_secs_f64();
        let workers = list(&self.workers);
        log(format_args!("the command exited with {code}; waiting up to {seconds} s for {workers} to drain"));
    }

    /// Ctrl-Z, or a read from the terminal by a command in the background: a shell above must see that this job has
    /// stopped. Without such a shell, as in a container, nobody could continue the command, so it is continued at
    /// once.
    fn first_has_stopped(&self, signal: Number) {
        let own = getpgrp().as_raw();
        if !signal.is_in(&STOPPING) || children::foreground().is_none() {
            return;
        }
        if children::foreground() == Some(self.first) {
            children::lend_terminal(own);
        }
        children::stop_as_by_terminal();
        let is_foreground = children::foreground() == Some(own);
        if is_foreground {
            children::lend_terminal(self.first);
        }
        // In the background it may run, unless it needs the terminal.
        if is_foreground || signal.is_in(&[Signal::SIGTSTP]) {
            self.go_on();
        }
    }

    /// Continues the command and the suspended processes of its group. CONT would discard a TSTP that a worker has
    /// not handled yet (signal(7)), so processes that handle TSTP and are not suspended are left alone.
    fn go_on(&self) {
        let is_stopped = |snapshot: &Snapshot| {
            let group = getpgid(Some(Pid::from_raw(snapshot.pid))).map(Pid::as_raw);
            let keeps_on = snapshot.for_recipients(None).handles(Signal::SIGTSTP.into()) && snapshot.state != 'T';
            group == Ok(self.first) && !keeps_on
        };
        for snapshot in descendants().iter().filter(|snapshot| is_stopped(snapshot)) {
            let _ = children::send(snapshot.pid, Signal::SIGCONT.into());
        }
    }

    fn kill(&mut self) -> u8 {
        let seconds = self.options.stop_grace.unwrap_or_default().as_secs_f64();
        let until = Instant::now() + DYING;
        let mut is_logged = false;
        loop {
            while children::reap().is_some() {}
            if !children::exist() || has_come(until) {
                return KILLED;
            }
            let snapshots = descendants();
            let mut left: Vec<i32> = snapshots.iter().map(|snapshot| snapshot.pid).collect();
            if snapshots.is_empty() && self.code.is_none() {
                // No /proc.
                left.push(-self.first);
            }
            if !is_logged {
                let names = list(&snapshots.iter().map(Worker::new).collect::<Vec<_>>());
                log(format_args!("killed {names}: --stop-grace of {seconds} s has passed"));
                is_logged = true;
            }
            for pid in left {
                let _ = children::send(pid, Signal::SIGKILL.into());
            }
            // Not every one is a child, whose end would be an event, so it sleeps briefly.
            while self.signals.next().is_some() {}
            self.signals.sleep(iter::empty::<&PidFd>(), Instant::now().checked_add(Duration::from_millis(10)));
        }
    }
}

fn has_come(time: Instant) -> bool {
    time <= Instant::now()
}

/// Every process below this one.
fn descendants() -> Vec<Snapshot> {
    Snapshot::below(Pid::this().as_raw())
}

fn processes(snapshots: &[Snapshot]) -> Vec<Process> {
    let input = Pipe::read_by(Pid::this().as_raw());
    snapshots.iter().map(|snapshot| snapshot.for_recipients(input)).collect()
}

fn list(workers: &[Worker]) -> String {
    workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
