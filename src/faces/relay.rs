//! The relay: a process of its own that carries signals past the shells between Sidekiq and PID 1.
//!
//! It traces them (`ptrace(2)`), and so takes part in each signal's delivery:
//!
//! - A shell without a handler for the signal does not get it; Sidekiq does. The shell lives on, waits for Sidekiq as
//!   it would have, and exits with its status.
//! - A shell with a handler gets it. If Sidekiq has heard nothing a moment later, it gets the signal too.
//! - A shell at whose end all that still runs would be killed is held at its end until Sidekiq has ended.
//!
//! It is no child of Sidekiq's, so that no job that waits for its children waits for it, has none of its descriptors,
//! so that no pipe stays open for it, and ends with it. If it is killed, the kernel lets the shells go, and they run on as
//! if it had never been.
//!
//! Where several Sidekiqs stand below one shell, each has its relay; the first one traces the shell, and the others
//! ask it to tell them what comes there.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpgid, setsid};
use serde::{Deserialize, Serialize};

use crate::edges::process;
use crate::edges::signals;
use crate::edges::snapshot::Snapshot;
use crate::edges::trace::{self, Handle, Inbox, Message, Sender, Stop};
use crate::rules::path::{Handling, Path as SignalPath};
use crate::rules::program::Program;
use crate::rules::refusal::{Evidence, Refusal};

/// The name of the relay's own subcommand, which [`start`] uses and people do not.
pub const SUBCOMMAND: &str = "relay";

/// How long a shell's own trap has to pass a signal on before the relay does.
const GRACE: Duration = Duration::from_millis(300);

/// The signals that are carried: those that stop or quiet a Sidekiq, make it tell what it does, or are its
/// application's own affair.
const CARRIED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What a relay says of itself once it has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its process id; `None` if there was nothing for it to do.
    pub pid: Option<i32>,
    /// The processes that it may not trace, and why.
    pub refused: Vec<(i32, Refusal)>,
    /// Why it could not be started at all.
    pub failure: Option<String>,
}

static STARTED: OnceLock<Report> = OnceLock::new();
static IS_OFF: AtomicBool = AtomicBool::new(false);

/// Starts a relay for the calling process, once, if the signal path to it needs one. `command` is the native command.
/// A process that is forked later has its parent's relay, and none of its own.
pub fn start(command: &Path) -> &'static Report {
    IS_OFF.store(false, SeqCst);
    STARTED.get_or_init(|| {
        let pid = nix::unistd::getpid().as_raw();
        if Snapshot::caller() != Some(pid) || Snapshot::path(pid).without_relay().to_be_relayed().is_empty() {
            return Report::default();
        }
        let report = launch(command, pid);
        report.unwrap_or_else(|error| Report { failure: Some(error.to_string()), ..Report::default() })
    })
}

/// Sends the relay away, if there is one.
pub fn stop() {
    IS_OFF.store(true, SeqCst);
    if let Some(relay) = signals::relay() {
        let _ = trace::tell(relay.as_raw_fd(), Message::Leave);
    }
}

/// Whether the relay was sent away, and none is wanted.
#[must_use]
pub fn is_off() -> bool {
    IS_OFF.load(SeqCst)
}

/// What the relay of the calling process said of itself when it was started; `None` if it never was.
#[must_use]
pub fn report() -> Option<&'static Report> {
    STARTED.get()
}

/// The relay's pid, while it is there.
#[must_use]
pub fn alive() -> Option<i32> {
    let relay = signals::relay().filter(|relay| !has_ended(relay));
    relay.and(report()).and_then(|report| report.pid)
}

fn launch(command: &Path, pid: i32) -> io::Result<Report> {
    let start_time = process::start_time(pid).unwrap_or_default();
    // It starts another of itself and ends, so that the other is nobody's child.
    let output = Command::new(command)
        .args([SUBCOMMAND, &pid.to_string(), &start_time.to_string(), "start"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let report: Report = serde_json::from_slice(&output.stdout)
        .map_err(|_| io::Error::other(format!("{} gave no answer ({})", command.display(), output.status)))?;
    if let Some(pid) = report.pid {
        signals::set_relay(Handle::open(pid)?);
    }
    Ok(report)
}

/// The relay's own process: `relay PID START_TIME [start]`.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let number = |index: usize| arguments.get(index).and_then(|word| word.parse::<u64>().ok());
    let (Some(pid), Some(start_time)) = (number(0).and_then(|pid| i32::try_from(pid).ok()), number(1)) else {
        eprintln!("sidekiq-lifecycle: relay is started by the gem itself, and of no use to anybody else");
        return ExitCode::from(2);
    };
    let done = match arguments.get(2) {
        Some(_) => again(arguments),
        None => relay(pid, start_time),
    };
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn again(arguments: &[String]) -> io::Result<()> {
    let own = arguments.iter().take(2);
    Command::new(std::env::current_exe()?).arg(SUBCOMMAND).args(own).stdin(Stdio::null()).spawn().map(drop)
}

fn relay(pid: i32, start_time: u64) -> io::Result<()> {
    // What is sent to the worker's group or session, or by its terminal, is not meant for the relay.
    setsid()?;
    close_inherited();
    let inbox = Inbox::open()?;
    let report = |report: &Report| -> io::Result<()> {
        let mut out = io::stdout();
        serde_json::to_writer(&mut out, report)?;
        out.flush()
    };
    let mut relay = match Handle::open(pid) {
        Ok(worker) => Relay::new(worker, inbox),
        Err(Errno::ENOSYS) => return report(&Report { refused: vec![(pid, Refusal::OldKernel)], ..Report::default() }),
        Err(errno) => return Err(errno.into()),
    };
    if process::start_time(pid) != Some(start_time) {
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
        relay.run();
    }
    Ok(())
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

#[derive(Debug)]
struct Relay {
    worker: Handle,
    inbox: Inbox,
    /// The processes it traces.
    traced: Vec<i32>,
    /// Those of them that want to end, and wait for the worker.
    held: Vec<i32>,
    /// Other relays, each with the process of [`Self::traced`] that its worker stands below as well.
    mates: Vec<(i32, Handle)>,
    /// Other relays, each with the process that it traces and this one would.
    hosts: Vec<(i32, Handle)>,
    /// Signals that shells with handlers have got, and when.
    watched: Vec<(i32, Instant)>,
    /// When the worker last heard a signal that this relay has not sent.
    heard: Option<Instant>,
    /// The signals that it has sent, and the worker has not told of yet.
    echoes: Vec<i32>,
    /// The worker was told to stop.
    is_stopping: bool,
    /// It was told to be quiet, by a TSTP that this relay carried.
    was_quieted: bool,
}

impl Relay {
    fn new(worker: Handle, inbox: Inbox) -> Self {
        Self {
            worker,
            inbox,
            traced: Vec::new(),
            held: Vec::new(),
            mates: Vec::new(),
            hosts: Vec::new(),
            watched: Vec::new(),
            heard: None,
            echoes: Vec::new(),
            is_stopping: false,
            was_quieted: false,
        }
    }

    fn is_of_use(&self) -> bool {
        !self.traced.is_empty() || !self.hosts.is_empty() || !self.mates.is_empty()
    }

    /// Traces what the path asks for, or joins the relay that does, and gives back what can be neither.
    fn take(&mut self) -> Vec<(i32, Refusal)> {
        let mut refused = Vec::new();
        for pid in Snapshot::path(self.worker.pid).without_relay().to_be_relayed() {
            if self.traced.contains(&pid) || self.hosts.iter().any(|(traced, _)| *traced == pid) {
                continue;
            }
            match trace::seize(pid) {
                Ok(()) => self.traced.push(pid),
                Err(Errno::ESRCH) => {}
                Err(_) if self.join(pid) => {}
                Err(_) => refused.push((pid, refusal(pid))),
            }
        }
        refused
    }

    /// Asks the relay that traces `pid`, if one does, to tell this one what comes there.
    fn join(&mut self, pid: i32) -> bool {
        let tracer = Snapshot::of(pid).map_or(0, |snapshot| snapshot.tracer);
        let is_relay = Snapshot::of(tracer).is_some_and(|tracer| tracer.program() == Program::Relay);
        let Ok(host) = Handle::open(tracer) else { return false };
        let joins = is_relay && host.tell(Message::Join(pid)).is_ok();
        if joins {
            self.hosts.push((pid, host));
        }
        joins
    }

    fn run(&mut self) {
        loop {
            // First, for it takes the news of stops out as well: of those that come from here on it wakes again.
            for (sender, message) in self.inbox.messages() {
                if message == Message::Leave && sender == self.worker.pid {
                    return;
                }
                self.told(sender, message);
            }
            while let Some((pid, stop)) = trace::next_stop() {
                // A process that is gone meanwhile will be told of as ended.
                let _ = self.stopped(pid, stop);
            }
            self.pass_on_what_is_due();
            self.mates.retain(|(_, mate)| !has_ended(mate));
            let hosts = self.hosts.len();
            self.hosts.retain(|(_, host)| !has_ended(host));
            if self.hosts.len() < hosts {
                self.take();
            }
            if (has_ended(&self.worker) && self.mates.is_empty()) || !self.is_of_use() {
                // The kernel lets go of all that is traced, and what was held ends.
                return;
            }
            self.wait();
        }
    }

    /// Asleep until something happens.
    fn wait(&self) {
        let worker = Some(&self.worker).filter(|worker| !has_ended(worker));
        let others = self.mates.iter().chain(&self.hosts).map(|(_, relay)| relay);
        let handles = worker.into_iter().chain(others);
        let descriptors = std::iter::once(self.inbox.as_fd()).chain(handles.map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let next = self.watched.iter().map(|(_, since)| GRACE.saturating_sub(since.elapsed())).min();
        // Rounded up, or the last millisecond would be spent awake.
        let timeout = next.and_then(|time| PollTimeout::try_from(time.as_millis() + 1).ok());
        let _ = poll(&mut polled, timeout.unwrap_or(PollTimeout::NONE));
    }

    fn stopped(&mut self, pid: i32, stop: Stop) -> nix::Result<()> {
        match stop {
            Stop::Signal(signal) if may_be_traced(pid) => {
                let signal = self.deliver(pid, signal);
                trace::resume(pid, signal)
            }
            // It has become another program, which has ways of its own by now.
            Stop::Signal(signal) => {
                self.watch(signal);
                self.traced.retain(|traced| *traced != pid);
                trace::release(pid, signal)
            }
            Stop::Exit if self.must_wait(pid) => {
                self.held.push(pid);
                self.stop_worker();
                self.tell_mates(pid, Message::Ending);
                Ok(())
            }
            Stop::Exit | Stop::Passing => trace::resume(pid, 0),
            Stop::Group => trace::listen(pid),
            Stop::Ended => {
                self.traced.retain(|traced| *traced != pid);
                self.held.retain(|held| *held != pid);
                self.mates.retain(|(traced, _)| *traced != pid);
                Ok(())
            }
        }
    }

    /// Takes part in a signal's delivery; gives back which signal the process is to get (0: none).
    fn deliver(&mut self, pid: i32, number: i32) -> i32 {
        let Ok(signal) = Signal::try_from(number) else { return number };
        let sender = trace::sender(pid);
        if signal == Signal::SIGSTOP {
            return self.deliver_stop(pid, sender);
        }
        if signal == Signal::SIGCHLD && self.was_quieted && trace::stopped_child(pid).is_some() {
            self.continue_siblings();
        }
        // At a terminal all of the foreground group gets it, the worker too.
        if !CARRIED.contains(&signal) || sender == Sender::Terminal {
            return number;
        }
        let Some(snapshot) = Snapshot::of(pid) else { return number };
        if snapshot.handling(signal) == Handling::Handled {
            self.watch(number);
            self.tell_mates(pid, Message::Watch(number));
            return number;
        }
        match self.spokesman(pid, signal) {
            // It stands nearer to the worker, and knows better what to do.
            Some(spokesman) => {
                let _ = spokesman.signal(number);
                self.watch(number);
            }
            None => self.carry(number),
        }
        self.tell_mates(pid, Message::Carry(number));
        0
    }

    /// PID 1 is not stopped by its own container; the kernel would see to that if it were not traced. And dumb-init makes
    /// SIGSTOP of TSTP (TTIN, TTOU), for its child's group and then for itself.
    fn deliver_stop(&mut self, pid: i32, sender: Sender) -> i32 {
        let Sender::Process(sender) = sender else { return libc::SIGSTOP };
        let is_dumb_init = |pid| Snapshot::of(pid).is_some_and(|snapshot| snapshot.program() == Program::DumbInit);
        if sender == pid && is_dumb_init(pid) {
            let path = Snapshot::path(self.worker.pid);
            let child = path.links().iter().zip(path.links().iter().skip(1)).find(|(_, parent)| parent.pid == pid);
            let group = child.and_then(|(child, _)| getpgid(Some(Pid::from_raw(child.pid))).ok());
            let _ = group.map(|group| killpg(group, Signal::SIGCONT));
            let _ = self.worker.signal(libc::SIGCONT);
            self.carry(libc::SIGTSTP);
            self.tell_mates(pid, Message::Carry(libc::SIGTSTP));
            return 0;
        }
        let is_from_above = self.traced.contains(&sender) && is_dumb_init(sender);
        if is_from_above || (pid == 1 && sender != 0) { 0 } else { libc::SIGSTOP }
    }

    fn told(&mut self, sender: i32, message: Message) {
        match message {
            Message::Heard(signal) if sender == self.worker.pid => {
                self.is_stopping |= stops(signal);
                match self.echoes.iter().position(|echo| *echo == signal) {
                    Some(echo) => drop(self.echoes.swap_remove(echo)),
                    None => self.heard = Some(Instant::now()),
                }
            }
            Message::Join(pid) if self.traced.contains(&pid) => {
                self.mates.extend(Handle::open(sender).map(|mate| (pid, mate)));
            }
            Message::Carry(signal) => self.carry(signal),
            Message::Watch(signal) => self.watch(signal),
            Message::Ending => self.stop_worker(),
            Message::Heard(_) | Message::Join(_) | Message::Leave => {}
        }
    }

    fn tell_mates(&self, pid: i32, message: Message) {
        for (_, mate) in self.mates.iter().filter(|(traced, _)| *traced == pid) {
            let _ = mate.tell(message);
        }
    }

    fn carry(&mut self, signal: i32) {
        self.is_stopping |= stops(signal);
        if is_told_of(signal) && !self.echoes.contains(&signal) {
            self.echoes.push(signal);
        }
        let _ = self.worker.signal(signal);
        if signal == libc::SIGTSTP {
            self.was_quieted = true;
            self.continue_siblings();
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
        if !self.is_stopping {
            self.carry(libc::SIGTERM);
        }
    }

    /// Only what the worker tells of when it hears it can be waited for.
    fn watch(&mut self, signal: i32) {
        if is_told_of(signal) {
            self.watched.push((signal, Instant::now()));
        }
    }

    fn pass_on_what_is_due(&mut self) {
        let (due, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watched).into_iter().partition(|(_, since)| since.elapsed() >= GRACE);
        self.watched = waiting;
        for (signal, since) in due {
            let has_heard = self.heard.is_some_and(|heard| heard >= since) || (self.is_stopping && stops(signal));
            if !has_heard {
                self.carry(signal);
            }
        }
    }

    /// Whether the worker would be killed if this process ended now.
    fn must_wait(&self, pid: i32) -> bool {
        let is_awaited = !has_ended(&self.worker) || self.mates.iter().any(|(traced, _)| *traced == pid);
        is_awaited && Snapshot::path(pid).ends_all(0)
    }

    /// A program with a handler of its own between `pid` and the worker: a supervisor of several workers, most likely.
    fn spokesman(&self, pid: i32, signal: Signal) -> Option<Handle> {
        let chain = Snapshot::chain(self.worker.pid);
        let between = chain.iter().skip(1).take_while(|snapshot| snapshot.pid != pid);
        let speaks = |snapshot: &&Snapshot| {
            snapshot.program() == Program::Other && snapshot.handling(signal) == Handling::Handled
        };
        between.filter(speaks).last().and_then(|snapshot| Handle::open(snapshot.pid).ok())
    }
}

/// Whether the worker tells its relay when it hears the signal.
fn is_told_of(signal: i32) -> bool {
    signals::OBSERVED.into_iter().any(|observed| observed as i32 == signal)
}

fn stops(signal: i32) -> bool {
    matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)
}

fn has_ended(handle: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn may_be_traced(pid: i32) -> bool {
    let link = Snapshot::of(pid).map(|snapshot| snapshot.link(None));
    let path = SignalPath::new(link.into_iter().collect()).without_relay();
    path.links().iter().all(|link| link.can_be_relayed())
}

fn refusal(pid: i32) -> Refusal {
    let target = Snapshot::of(pid).unwrap_or_default();
    let own = Snapshot::caller().and_then(Snapshot::of).unwrap_or_default();
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    Refusal::of(Evidence {
        is_denied: trace::is_denied(),
        other_user: (target.uid != own.uid).then_some(target.uid),
        tracer: target.tracer,
        yama: yama.and_then(|scope| scope.trim().parse().ok()),
        is_capable: own.may_trace_all,
    })
}
