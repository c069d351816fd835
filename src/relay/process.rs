//! The relay's own process. It traces shells (`ptrace(2)`), and so takes part in each signal's delivery:
//!
//! - A shell without a handler for the signal does not get it; Sidekiq does. The shell lives on, waits for Sidekiq as
//!   it would have, and exits with its status.
//! - A shell with a handler gets it. A handler that runs at once decides alone. One that is put off, as a trap is while its shell
//!   waits for a foreground command, cannot: if Sidekiq has not heard of the signal a moment later, it gets the signal too.
//! - A shell at whose end all that still runs would be killed is held there until Sidekiq has ended, and not longer than
//!   Sidekiq takes.
//! - A program that handles TERM, as Puma or a supervisor does, has its signals, all of them, and decides. It is only held at its
//!   end, and Sidekiq is told then, if it has not been.
//! - Whoever is beside Sidekiq and handles TERM, as a web server does, is told once Sidekiq has ended, if its shell was kept from
//!   dying of that TERM.
//!
//! Nothing is held against a SIGKILL. A shell that dies of one is let go at once. A shell that may end before the worker is
//! stopped at its system calls, and held before it begins to exit, where a SIGKILL still ends it: one that has the worker in its
//! background, all of them once one has ended, and all while a stop is under way. A program with several threads, or with a handler for
//! TERM, runs at full speed until a stop has come to it. Should the relay be stopped or stuck, the
//! kernel sees to it that nothing waits for it ([`Failsafe`]).
//!
//! Where several Sidekiqs stand below one shell, each has its relay; the first one traces the shell, and the others
//! ask it to tell them what comes there.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpgid, setsid};

use super::Report;
use crate::model::forwarding::{self, FORWARDED, Handlers, stops};
use crate::model::program::{Program, RELAY};
use crate::model::recipients;
use crate::model::shell_traps;
use crate::model::signal_path::{Asked, Effect, Handling, Link};
use crate::model::trace_denied::{Call, Evidence, Refusal};
use crate::sys::identity;
use crate::sys::procfs::Snapshot;
use crate::sys::signals::disposition;
use crate::sys::trace::{self, Failsafe, Handle, Inbox, Mail, Message, Sender, Stop, Until};

/// How long a shell that does nothing with a signal of its own keeps it from the worker.
const GRACE: Duration = Duration::from_millis(300);

/// How long a shell may take to tell others by itself once its worker has ended.
const ENDING: Duration = Duration::from_millis(500);

/// How long the relay stays once its worker has ended in a stop, for a Sidekiq that is started anew meanwhile: it would be
/// killed with its jobs, so it is told to stop as well. 120 s is the longest stop timeout that ECS grants on Fargate.
const AFTERWARDS: Duration = Duration::from_secs(120);

/// How long a program may take to set its handlers and to begin its threads.
const BEGINNING: Duration = Duration::from_secs(60);

/// `signal-relay PID START_TIME SECONDS [start]`: the worker, and how long it takes to stop at the most.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let number = |index: usize| arguments.get(index).and_then(|word| word.parse::<u64>().ok());
    let pid = number(0).and_then(|pid| i32::try_from(pid).ok());
    let (Some(pid), Some(start_time), Some(seconds)) = (pid, number(1), number(2)) else {
        eprintln!("{RELAY} is started by the gem sidekiq_lifecycle itself, and of no use to anybody else");
        return ExitCode::from(2);
    };
    let _ = prctl::set_name(&std::ffi::CString::new(RELAY).unwrap_or_default());
    let done = match arguments.get(3) {
        Some(_) => again(arguments),
        None => relay(pid, start_time, Duration::from_secs(seconds)).inspect_err(|error| {
            // Whoever waits for it should not have to guess. Where it has reported already nobody reads this.
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
    // What is sent to the worker's group or session, or by its terminal, is not meant for the relay.
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
    let refused = relay.take();
    // A TSTP that came before the relay: a shell that stands still would not see Sidekiq end, nor hear of any signal.
    for pid in stopped.into_iter().filter(|pid| relay.traced.contains(pid)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    let is_of_use = relay.is_of_use();
    report(&Report { pid: is_of_use.then(|| nix::unistd::getpid().as_raw()), refused, failure: None })?;
    if is_of_use {
        let null = fs::File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        drop(null);
        relay.see_calls();
        relay.run();
    }
    Ok(())
}

/// Nothing is traced before every system call that the relay needs has been seen to work.
fn prepare(pid: i32, limit: Duration) -> Result<Relay, Refusal> {
    let worker = Handle::open(pid).map_err(not_opened)?;
    let inbox = Inbox::open()?;
    trace::verify(&worker)?;
    Ok(Relay::new(worker, inbox, Failsafe::start()?, limit))
}

fn report(report: &Report) -> io::Result<()> {
    let mut out = io::stdout();
    serde_json::to_writer(&mut out, report)?;
    out.flush()
}

/// Whatever came along without close-on-exec: a descriptor kept open would keep a pipe open.
fn close_inherited() {
    let names = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // One of them is the directory's own, and closed when all are read.
    let numbers: Vec<i32> = names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        let _ = nix::unistd::close(number);
    }
}

/// A signal that a shell with a handler has got.
#[derive(Debug)]
struct Watched {
    signal: i32,
    since: Instant,
    /// The shell, where this relay traces it.
    shell: Option<i32>,
}

#[derive(Debug)]
struct Relay {
    worker: Handle,
    inbox: Inbox,
    failsafe: Failsafe,
    /// The processes it traces.
    traced: Vec<i32>,
    /// Their further threads, each with its process; also those of processes that are traced no more, until they have been let go.
    threads: Vec<(i32, i32)>,
    /// Those of the processes that only have to wait at their end.
    holds: Vec<i32>,
    /// Those of the processes that have other threads or handlers than a shell: their system calls are seen only in a stop.
    busy: Vec<i32>,
    /// Threads that want to end with their process, and wait for the worker.
    held: Vec<i32>,
    /// Who is told to stop once the worker has ended.
    followers: Vec<Handle>,
    /// Other relays, each with the process of [`Self::traced`] that its worker stands below as well.
    mates: Vec<(i32, Handle)>,
    /// Other relays, each with the process that it traces and this one would.
    hosts: Vec<(i32, Handle)>,
    /// Signals that shells with handlers have got.
    watched: Vec<Watched>,
    /// When the worker last heard a signal that this relay has not sent.
    heard: Option<Instant>,
    /// The signals that it has sent, and the worker has not told of yet.
    echoes: Vec<i32>,
    /// When the worker was told to stop.
    stopping: Option<Instant>,
    /// How long a stop takes at the most, the worker's own and its mates'.
    limit: Duration,
    /// The signals that the application has traps of its own for.
    trapped: u64,
    /// The processes that a stop has come to, from above.
    told_to_stop: Vec<i32>,
    /// When the last one of these signals came: a program that lives on is not to be slowed for good.
    told_at: Option<Instant>,
    /// Shells that get their TERM after all.
    condemned: Vec<i32>,
    /// When the worker ended.
    ended: Option<Instant>,
    /// The worker was told to be quiet, by a TSTP that this relay carried.
    was_quieted: bool,
    /// A traced process may end before the worker does.
    may_end_first: bool,
    /// The traced processes that are stopped at each system call.
    seen: Vec<i32>,
    /// Traced processes that have become another program, and when. What that is shows once it has begun.
    changed: Vec<(i32, Instant)>,
}

impl Relay {
    fn new(worker: Handle, inbox: Inbox, failsafe: Failsafe, limit: Duration) -> Self {
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
            mates: Vec::new(),
            hosts: Vec::new(),
            watched: Vec::new(),
            heard: None,
            echoes: Vec::new(),
            stopping: None,
            limit,
            trapped: 0,
            told_to_stop: Vec::new(),
            told_at: None,
            condemned: Vec::new(),
            ended: None,
            was_quieted: false,
            may_end_first: false,
            seen: Vec::new(),
            changed: Vec::new(),
        }
    }

    fn is_of_use(&self) -> bool {
        !self.traced.is_empty() || !self.hosts.is_empty() || !self.mates.is_empty()
    }

    /// Traces what the path asks for, or joins the relay that does, and gives back what can be neither.
    fn take(&mut self) -> Vec<(i32, Refusal)> {
        let mut refused = Vec::new();
        let path = Snapshot::path(self.worker.pid).without_relay();
        // It waits for nobody whom it has started with `&`.
        self.may_end_first |= path.links().iter().any(|link| link.program == Program::Shell && link.is_free);
        for pid in path.to_be_relayed() {
            if self.traced.contains(&pid) || self.hosts.iter().any(|(traced, _)| *traced == pid) {
                continue;
            }
            let only_waits = !may_be_relayed(pid);
            match trace::seize(pid) {
                Ok(()) => self.begin(pid, only_waits),
                Err(Errno::ESRCH) => {}
                Err(_) if self.join(pid) || only_waits => {}
                Err(_) => refused.push((pid, refusal(pid))),
            }
        }
        refused
    }

    fn begin(&mut self, pid: i32, only_waits: bool) {
        self.traced.push(pid);
        let threads = trace::threads(pid).into_iter().filter(|thread| *thread != pid);
        self.threads.extend(threads.map(|thread| (thread, pid)));
        if only_waits {
            self.holds.push(pid);
        }
        if only_waits || Snapshot::of(pid).is_some_and(|snapshot| snapshot.threads > 1) {
            self.busy.push(pid);
        }
    }

    /// The process of a thread, if it is traced.
    fn process_of(&mut self, thread: i32) -> Option<i32> {
        let is_thread = |known: &&(i32, i32)| known.0 == thread;
        let pid = match self.threads.iter().find(is_thread) {
            _ if self.traced.contains(&thread) => thread,
            Some((_, pid)) => *pid,
            // It has just begun.
            None => {
                let pid = trace::process_of(thread)?;
                self.threads.push((thread, pid));
                if self.traced.contains(&pid) && !self.busy.contains(&pid) {
                    self.busy.push(pid);
                }
                pid
            }
        };
        self.traced.contains(&pid).then_some(pid)
    }

    /// Asks the relay that traces `pid`, if one does, to tell this one what comes there.
    fn join(&mut self, pid: i32) -> bool {
        let tracer = Snapshot::of(pid).map_or(0, |snapshot| snapshot.tracer);
        let is_relay = Snapshot::of(tracer).is_some_and(|tracer| tracer.program() == Program::Relay);
        let Ok(host) = Handle::open(tracer) else { return false };
        let joins = is_relay && host.tell(Message::Join(pid)).is_ok();
        if joins {
            let _ = host.tell(self.limit_message());
            self.hosts.push((pid, host));
        }
        joins
    }

    fn run(&mut self) {
        loop {
            let _ = self.failsafe.awake();
            // First, for it takes the news of stops out as well: of those that come from here on it wakes again.
            for mail in self.inbox.read() {
                match mail {
                    Mail::Message(sender, Message::Leave) if sender == self.worker.pid => return,
                    Mail::Message(sender, message) => self.told(sender, message),
                    Mail::Signal(signal) => self.mistaken_for_worker(signal),
                }
            }
            while let Some((thread, stop)) = trace::next_stop() {
                // One that is gone meanwhile will be told of as ended.
                let _ = self.stopped(thread, stop);
            }
            self.pass_on_what_is_due();
            self.mates.retain(|(_, mate)| !has_ended(mate));
            let hosts = self.hosts.len();
            self.hosts.retain(|(_, host)| !has_ended(host));
            if self.hosts.len() < hosts {
                self.take();
            }
            self.look_whether_ended();
            self.let_go();
            self.tell_followers();
            if self.is_done() {
                // The kernel lets go of all that is traced.
                return;
            }
            self.see_calls();
            self.look_at_the_changed();
            self.failsafe.asleep();
            self.wait();
        }
    }

    /// What its worker was told to do is over for those that outlive it: at once if nobody else was meant.
    fn look_whether_ended(&mut self) {
        if !has_ended(&self.worker) {
            return;
        }
        self.ended.get_or_insert_with(Instant::now);
        let afterwards = if self.told_to_stop.is_empty() { Duration::ZERO } else { self.limit + AFTERWARDS };
        let is_past = |since: Instant| since.elapsed() >= afterwards;
        if self.held.is_empty() && self.stopping.is_some_and(is_past) {
            self.stopping = None;
            self.told_to_stop.clear();
        }
    }

    fn is_done(&self) -> bool {
        let stays = self.told_to_stop.iter().any(|pid| self.traced.contains(pid));
        let is_over = self.ended.is_some_and(|ended| !stays || ended.elapsed() >= AFTERWARDS);
        (is_over && self.mates.is_empty()) || !self.is_of_use()
    }

    /// Asleep until something happens; until the next tick at the latest.
    fn wait(&self) {
        let worker = Some(&self.worker).filter(|_| self.ended.is_none());
        let others = self.mates.iter().chain(&self.hosts).map(|(_, relay)| relay);
        let handles = worker.into_iter().chain(others);
        let descriptors = std::iter::once(self.inbox.as_fd()).chain(handles.map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let next = self.watched.iter().map(|watched| GRACE.saturating_sub(watched.since.elapsed())).min();
        // Rounded up, or the last millisecond would be spent awake.
        let timeout = next.and_then(|time| PollTimeout::try_from(time.as_millis() + 1).ok());
        let slept = poll(&mut polled, timeout.unwrap_or(PollTimeout::NONE));
        if slept.is_err_and(|errno| errno != Errno::EINTR) {
            // Whatever forbids it, nobody is to be kept busy by that.
            std::thread::sleep(GRACE);
        }
    }

    // ---- what happens to a traced process ----

    fn stopped(&mut self, thread: i32, stop: Stop) -> nix::Result<()> {
        if stop == Stop::Ended {
            self.forget(thread);
            return Ok(());
        }
        let Some(pid) = self.process_of(thread) else {
            // Of a process that is traced no more, or never was to be.
            self.threads.retain(|(known, _)| *known != thread);
            return trace::release(thread, if let Stop::Signal(number) = stop { number } else { 0 });
        };
        match stop {
            Stop::Signal(number) => self.signalled(pid, thread, number),
            Stop::Leaving | Stop::Exit if self.must_wait(pid, thread, stop) => {
                self.held.push(thread);
                self.stop_worker();
                self.tell_mates(pid, Message::Ending);
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
            Stop::Passing if self.has_changed(pid) && !self.keeps(pid) => self.release(pid, thread, 0),
            Stop::Call(call) => {
                if !self.busy.contains(&pid) && !shell_traps::only_waits(call) {
                    self.leave_it_to(pid);
                }
                self.resume(pid, thread, 0)
            }
            Stop::Exit | Stop::Killed if thread == pid => {
                // Whoever waits for it goes on now, and may end as well.
                self.may_end_first = true;
                self.see_calls();
                self.resume(pid, thread, 0)
            }
            Stop::Exit | Stop::Killed | Stop::Leaving | Stop::Passing => self.resume(pid, thread, 0),
            Stop::Group => trace::listen(thread),
            Stop::Ended => Ok(()),
        }
    }

    fn forget(&mut self, ended: i32) {
        for list in [&mut self.traced, &mut self.holds, &mut self.busy, &mut self.held, &mut self.told_to_stop] {
            list.retain(|pid| *pid != ended);
        }
        self.threads.retain(|(thread, process)| *thread != ended && *process != ended);
        self.changed.retain(|(changed, _)| *changed != ended);
        self.mates.retain(|(traced, _)| *traced != ended);
    }

    fn signalled(&mut self, pid: i32, thread: i32, number: i32) -> nix::Result<()> {
        if number == libc::SIGCHLD && self.was_quieted && trace::stopped_child(thread).is_some() {
            self.continue_siblings();
        }
        // All else is none of the relay's business, and costs a process as little as can be: a shell gets a SIGCHLD for every
        // command that it has started.
        if number != libc::SIGSTOP && !FORWARDED.contains(&number) {
            return self.resume(pid, thread, number);
        }
        if !self.keeps(pid) {
            return self.release(pid, thread, number);
        }
        let number = self.deliver(pid, trace::sender(thread), number);
        self.see_calls();
        self.resume(pid, thread, number)
    }

    /// Whether the process is traced on: it may be relayed, or, if it has got handlers since, is to wait at its end.
    fn keeps(&mut self, pid: i32) -> bool {
        if may_be_relayed(pid) {
            self.holds.retain(|held| *held != pid);
            return true;
        }
        let is_held = may_be_held(pid);
        if is_held && !self.holds.contains(&pid) {
            self.holds.push(pid);
        }
        if is_held && !self.busy.contains(&pid) {
            self.busy.push(pid);
        }
        is_held
    }

    /// It has become a program that decides for itself, or has got handlers since.
    fn release(&mut self, pid: i32, thread: i32, signal: i32) -> nix::Result<()> {
        let others: Vec<i32> = self.threads_of(pid).into_iter().filter(|other| *other != thread).collect();
        for list in [&mut self.traced, &mut self.holds, &mut self.busy] {
            list.retain(|traced| *traced != pid);
        }
        self.changed.retain(|(changed, _)| *changed != pid);
        // Each is let go when it stops for a moment.
        for other in others {
            let _ = trace::interrupt(other);
        }
        trace::release(thread, signal)
    }

    fn threads_of(&self, pid: i32) -> Vec<i32> {
        let further = self.threads.iter().filter(|(_, process)| *process == pid).map(|(thread, _)| *thread);
        std::iter::once(pid).chain(further).collect()
    }

    fn has_changed(&self, pid: i32) -> bool {
        self.changed.iter().any(|(changed, _)| *changed == pid)
    }

    /// Stops for a moment, to be released, whoever has become a program with ways of its own.
    fn look_at_the_changed(&mut self) {
        self.changed.retain(|(_, since)| since.elapsed() < BEGINNING);
        let changed: Vec<i32> = self.changed.iter().map(|(pid, _)| *pid).collect();
        for pid in changed.into_iter().filter(|pid| !may_be_relayed(*pid)) {
            if !self.keeps(pid) {
                let _ = trace::interrupt(pid);
            }
        }
    }

    fn resume(&self, pid: i32, thread: i32, signal: i32) -> nix::Result<()> {
        trace::resume(thread, signal, if self.needs_calls(pid) { Until::Call } else { Until::Event })
    }

    /// To hold who leaves before it exits; and while a shell has a signal of which it is not known yet whether it does
    /// anything.
    fn needs_calls(&self, pid: i32) -> bool {
        let is_awaited = self.ended.is_none_or(|_| !self.mates.is_empty());
        if self.busy.contains(&pid) {
            let is_stopping = self.told_at.is_some_and(|told| told.elapsed() < self.limit + AFTERWARDS);
            return is_awaited && is_stopping && self.told_to_stop.contains(&pid) && !self.is_over();
        }
        let may_leave = self.may_end_first || self.stopping.is_some() || !self.told_to_stop.is_empty();
        is_awaited && (may_leave || !self.watched.is_empty())
    }

    fn see_calls(&mut self) {
        let needed: Vec<i32> = self.traced.iter().copied().filter(|pid| self.needs_calls(*pid)).collect();
        for pid in needed.iter().filter(|pid| !self.seen.contains(pid)) {
            for thread in self.threads_of(*pid).iter().filter(|thread| !self.held.contains(thread)) {
                let _ = trace::interrupt(*thread);
            }
        }
        self.seen = needed;
    }

    /// Takes part in a signal's delivery; gives back which signal the process is to get (0: none).
    fn deliver(&mut self, pid: i32, sender: Sender, signal: i32) -> i32 {
        if signal == libc::SIGSTOP {
            return self.deliver_stop(pid, sender);
        }
        if self.holds.contains(&pid) {
            self.note_stop(pid, signal);
            return signal;
        }
        // At a terminal all of the foreground group gets it, the worker too. And who has outlived the worker has ways of its own.
        let is_alone = self.ended.is_some() && self.mates.is_empty();
        if sender == Sender::Terminal || is_alone || self.condemned.contains(&pid) {
            return signal;
        }
        let Some(snapshot) = Snapshot::of(pid) else { return signal };
        self.note_stop(pid, signal);
        // A TERM would have timeout(1) begin to count to its `-k`.
        if is_handled(&snapshot, signal) && snapshot.program() != Program::Timeout {
            if !self.decides(&snapshot) {
                self.watch(signal, Some(pid));
                self.tell_mates(pid, Message::Watch(signal));
            }
            return signal;
        }
        self.note_followers(pid, signal);
        let message = match self.forward(pid, signal) {
            Some(supervisor) => Message::Sent(signal, supervisor),
            None => Message::Carry(signal, pid),
        };
        self.tell_mates(pid, message);
        0
    }

    /// PID 1 is not stopped by its own container; the kernel would see to that if it were not traced. And dumb-init makes
    /// SIGSTOP of TSTP (TTIN, TTOU), for its child's group and then for itself.
    fn deliver_stop(&mut self, pid: i32, sender: Sender) -> i32 {
        let Sender::Process(sender) = sender else { return libc::SIGSTOP };
        let is_dumb_init = |pid| Snapshot::of(pid).is_some_and(|snapshot| snapshot.program() == Program::DumbInit);
        if sender == pid && is_dumb_init(pid) {
            let child = self.child_towards_worker(pid);
            let group = child.and_then(|child| getpgid(Some(Pid::from_raw(child.pid))).ok());
            let _ = group.map(|group| killpg(group, Signal::SIGCONT));
            let _ = self.worker.signal(libc::SIGCONT);
            self.carry(libc::SIGTSTP);
            self.tell_mates(pid, Message::Carry(libc::SIGTSTP, pid));
            return 0;
        }
        let is_from_above = self.traced.contains(&sender) && is_dumb_init(sender);
        if is_from_above || (pid == 1 && sender != 0) { 0 } else { libc::SIGSTOP }
    }

    fn child_towards_worker(&self, pid: i32) -> Option<Snapshot> {
        Snapshot::chain(self.worker.pid).into_iter().find(|child| child.parent == pid)
    }

    /// A program with a handler of its own does.
    fn decides(&self, snapshot: &Snapshot) -> bool {
        match snapshot.program() {
            Program::Shell => self
                .child_towards_worker(snapshot.pid)
                .is_some_and(|child| shell_traps::run_at_once(snapshot.for_traps(), child.for_traps())),
            _ => true,
        }
    }

    /// Whether this process is to wait until the worker has ended: it would be killed if this one ended now. A busy one that is PID 1
    /// waits only where a SIGKILL still ends it; any other is let go by the kernel when PID 1 is killed, and the relay with it.
    fn must_wait(&self, pid: i32, thread: i32, stop: Stop) -> bool {
        if !self.is_awaited(pid) || self.is_over() || self.held.contains(&thread) {
            return false;
        }
        let path = Snapshot::path(pid);
        let is_first = path.links().first().is_some_and(|link| link.is_first);
        let is_possible = stop == Stop::Leaving || (thread == pid && !(is_first && self.busy.contains(&pid)));
        is_possible && path.ends_all(0)
    }

    /// Whether a worker below the process still runs.
    fn is_awaited(&self, pid: i32) -> bool {
        self.ended.is_none() || self.mates.iter().any(|(traced, _)| *traced == pid)
    }

    /// Whether the worker, and its mates, have had the time that a stop takes.
    fn is_over(&self) -> bool {
        self.stopping.is_some_and(|since| since.elapsed() >= self.limit)
    }

    /// Lets those go that have waited for the worker, once it has ended or had its time.
    fn let_go(&mut self) {
        let is_over = self.is_over();
        for thread in std::mem::take(&mut self.held) {
            let _ = match self.process_of(thread) {
                Some(pid) if !is_over && self.is_awaited(pid) => {
                    self.held.push(thread);
                    Ok(())
                }
                Some(pid) => self.resume(pid, thread, 0),
                None => trace::release(thread, 0),
            };
        }
    }

    // ---- what others say ----

    fn told(&mut self, sender: i32, message: Message) {
        match message {
            Message::Heard(signal) if sender == self.worker.pid => {
                if stops(signal) {
                    self.stopping.get_or_insert_with(Instant::now);
                }
                match self.echoes.iter().position(|echo| *echo == signal) {
                    Some(echo) => drop(self.echoes.swap_remove(echo)),
                    None => self.heard = Some(Instant::now()),
                }
            }
            Message::Traps(signal) if sender == self.worker.pid => {
                self.trapped = forwarding::with(self.trapped, signal);
            }
            Message::Limit(seconds) if sender == self.worker.pid => {
                self.limit = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
                for (_, host) in &self.hosts {
                    let _ = host.tell(self.limit_message());
                }
            }
            Message::Limit(seconds) if self.mates.iter().any(|(_, mate)| mate.pid == sender) => {
                self.limit = self.limit.max(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
            }
            Message::Join(pid) if self.traced.contains(&pid) => {
                // Of several only one can be in the foreground.
                self.may_end_first = true;
                let Ok(mate) = Handle::open(sender) else { return };
                if self.told_to_stop.contains(&pid) && !self.holds.contains(&pid) {
                    self.end_loop(pid, &mate);
                }
                self.mates.push((pid, mate));
            }
            Message::Carry(signal, pid) => drop(self.forward(pid, signal)),
            Message::Sent(signal, supervisor) => self.forward_unless_below(supervisor, sender, signal),
            Message::Watch(signal) => self.watch(signal, None),
            Message::Decides(signal) => self.watched.retain(|watched| watched.signal != signal),
            Message::Ending => self.stop_worker(),
            Message::Heard(_) | Message::Join(_) | Message::Leave | Message::Traps(_) | Message::Limit(_) => {}
        }
    }

    /// A shell has started a Sidekiq anew, in a stop. It gets what it has missed; and so does the shell, if it would have ended
    /// of it were it not for the relay.
    fn end_loop(&mut self, pid: i32, mate: &Handle) {
        let _ = mate.tell(Message::Carry(libc::SIGTERM, pid));
        let would_end = Snapshot::of(pid).is_some_and(|shell| shell.handling(Signal::SIGTERM) == Handling::Default);
        if pid != 1 && would_end && self.ended.is_some() {
            self.condemned.push(pid);
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn limit_message(&self) -> Message {
        Message::Limit(i32::try_from(self.limit.as_secs()).unwrap_or(i32::MAX))
    }

    fn note_stop(&mut self, pid: i32, signal: i32) {
        if !stops(signal) {
            return;
        }
        self.told_at = Some(Instant::now());
        if !self.told_to_stop.contains(&pid) {
            self.told_to_stop.push(pid);
        }
    }

    /// Those beside the worker that nobody tells, for the shell that would have died of the signal lives on. They are told when
    /// the worker has ended, by the same rule as in `run`; not who has been told by whatever signals the whole group.
    fn note_followers(&mut self, pid: i32, signal: i32) {
        let is_grouped = |link: &Link| link.effect(Asked::Stop) == Effect::ForwardsToGroup;
        if !stops(signal) || !self.followers.is_empty() || Snapshot::path(pid).links().iter().any(is_grouped) {
            return;
        }
        let processes: Vec<_> = Snapshot::living().iter().map(|snapshot| snapshot.for_recipients(None)).collect();
        let above: Vec<i32> = Snapshot::chain(self.worker.pid).iter().map(|link| link.pid).collect();
        let beside = recipients::recipients(&processes, &[pid], Signal::SIGTERM.into()).followers.into_iter();
        self.followers = beside.filter(|pid| !above.contains(pid)).filter_map(|pid| Handle::open(pid).ok()).collect();
    }

    fn tell_followers(&mut self) {
        if self.ended.is_some_and(|ended| ended.elapsed() >= ENDING) && self.mates.is_empty() {
            for follower in std::mem::take(&mut self.followers) {
                let _ = follower.signal(libc::SIGTERM);
            }
        }
    }

    fn tell_mates(&self, pid: i32, message: Message) {
        for (_, mate) in self.mates.iter().filter(|(traced, _)| *traced == pid) {
            let _ = mate.tell(message);
        }
    }

    // ---- what the worker gets ----

    /// A signal that goes no further at `pid` goes on to the worker, or to a program between that handles it: a supervisor
    /// knows better what to do, and decides. Gives back the pid of that.
    fn forward(&mut self, pid: i32, signal: i32) -> Option<i32> {
        self.note_stop(pid, signal);
        let supervisor = self.supervisor(pid, signal);
        match &supervisor {
            Some(supervisor) => drop(supervisor.signal(signal)),
            None => self.carry(signal),
        }
        supervisor.map(|supervisor| supervisor.pid)
    }

    /// The relay `host` has sent the signal to a supervisor; that may be another worker's.
    fn forward_unless_below(&mut self, supervisor: i32, host: i32, signal: i32) {
        let is_below = Snapshot::chain(self.worker.pid).iter().any(|above| above.pid == supervisor);
        let shell = self.hosts.iter().find(|(_, relay)| relay.pid == host).map(|(shell, _)| *shell);
        match shell {
            Some(shell) if is_below => self.note_stop(shell, signal),
            Some(shell) => drop(self.forward(shell, signal)),
            None => {}
        }
    }

    fn carry(&mut self, signal: i32) {
        let Some(signal) = self.for_worker(signal) else { return };
        if stops(signal) {
            self.stopping.get_or_insert_with(Instant::now);
        }
        if is_told_of(signal) && !self.echoes.contains(&signal) {
            self.echoes.push(signal);
        }
        let _ = self.worker.signal(signal);
        if signal == libc::SIGTSTP {
            self.was_quieted = true;
            self.continue_siblings();
        }
    }

    fn for_worker(&self, signal: i32) -> Option<i32> {
        let caught = Snapshot::of(self.worker.pid).map(|worker| worker.caught.0);
        forwarding::forwarded(signal, Handlers { caught, trapped: self.trapped })
    }

    /// A script has looked for the newest process of a Sidekiq, or for all of its group or user. If the worker does not hear of
    /// the signal by itself, it gets it.
    fn mistaken_for_worker(&mut self, signal: i32) {
        match self.for_worker(signal) {
            Some(signal) if is_told_of(signal) => self.watch(signal, None),
            Some(_) => self.carry(signal),
            None => {}
        }
    }

    /// A TSTP that is meant for Sidekiq has stopped others of its group: the cat of a pipeline, whose pipe Sidekiq would
    /// soon wait for.
    fn continue_siblings(&self) {
        let is_sibling = |snapshot: &Snapshot| {
            snapshot.state == 'T' && self.traced.contains(&snapshot.parent) && !self.traced.contains(&snapshot.pid)
        };
        for sibling in Snapshot::all().iter().filter(|snapshot| is_sibling(snapshot)) {
            let _ = kill(Pid::from_raw(sibling.pid), Signal::SIGCONT);
        }
    }

    fn stop_worker(&mut self) {
        if self.stopping.is_none() {
            self.carry(libc::SIGTERM);
        }
    }

    /// Only what the worker tells of when it hears it can be waited for.
    fn watch(&mut self, signal: i32, shell: Option<i32>) {
        if self.for_worker(signal).is_some_and(is_told_of) {
            self.watched.push(Watched { signal, since: Instant::now(), shell });
        }
    }

    /// A shell does something with the signals that it has got, and decides what becomes of them.
    fn leave_it_to(&mut self, shell: i32) {
        let (decided, watched): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watched).into_iter().partition(|watched| watched.shell == Some(shell));
        self.watched = watched;
        for watched in decided {
            self.tell_mates(shell, Message::Decides(watched.signal));
        }
    }

    fn pass_on_what_is_due(&mut self) {
        let (due, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watched).into_iter().partition(|watched| watched.since.elapsed() >= GRACE);
        self.watched = waiting;
        for Watched { signal, since, .. } in due {
            let is_stopping = self.stopping.is_some() && stops(signal);
            let has_heard = self.heard.is_some_and(|heard| heard >= since) || is_stopping;
            if !has_heard {
                self.carry(signal);
            }
        }
    }

    /// A program with a handler of its own between `pid` and the worker.
    fn supervisor(&self, pid: i32, signal: i32) -> Option<Handle> {
        let chain = Snapshot::chain(self.worker.pid);
        let between = chain.iter().skip(1).take_while(|snapshot| snapshot.pid != pid);
        let speaks = |snapshot: &&Snapshot| snapshot.program().decides() && is_handled(snapshot, signal);
        between.filter(speaks).last().and_then(|snapshot| Handle::open(snapshot.pid).ok())
    }
}

fn is_handled(snapshot: &Snapshot, signal: i32) -> bool {
    Signal::try_from(signal).is_ok_and(|signal| snapshot.handling(signal) == Handling::Handled)
}

/// Whether the worker tells its relay when it hears the signal.
fn is_told_of(signal: i32) -> bool {
    disposition::OBSERVED.into_iter().any(|observed| observed as i32 == signal)
}

/// Whether the process that a handle is of has ended.
pub(super) fn has_ended(handle: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Whether signals may be carried past it. Of one that is gone it is of no account.
fn may_be_relayed(pid: i32) -> bool {
    Snapshot::of(pid).is_none_or(|snapshot| snapshot.link(None).can_be_relayed())
}

/// Whether it is a program that is to wait at its end.
fn may_be_held(pid: i32) -> bool {
    Snapshot::path(pid).can_be_held(0)
}

/// Why a process may not be traced, as far as can be told.
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

/// Why a process cannot be opened with pidfd_open(2), which came with Linux 5.3.
fn not_opened(errno: Errno) -> Refusal {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or_default());
    if errno == Errno::ENOSYS && version < (5, 3) {
        return Refusal::OldKernel;
    }
    Refusal::Call(Call::PidfdOpen, errno as i32)
}
