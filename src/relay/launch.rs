//! Starts the relay, from inside of the worker, and keeps it informed.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::model::forwarding;
use crate::model::program::RELAY;
use crate::model::relay_message::Message;
use crate::model::stop_timeout::{self, Need};
use crate::relay::report::Report;
use crate::sys::identity as processes;
use crate::sys::mailbox;
use crate::sys::pidfd::{self, PidFd};
use crate::sys::procfs::Snapshot;
use crate::sys::signals::disposition::{self, OBSERVED};
use crate::sys::signals::{observer, relay_link};

/// How long the boot waits for the relay. It takes some milliseconds, unless the gem's disk or /proc hangs, or the
/// processors are busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take after that. It works as soon as it answers.
const LATE_PATIENCE: Duration = Duration::from_secs(60);

static STARTED: OnceLock<Report> = OnceLock::new();
/// Of one that has answered late, or has been given up.
static STARTED_LATE: OnceLock<Report> = OnceLock::new();
/// The process that still waits for one.
static PENDING_IN: AtomicI32 = AtomicI32::new(0);

/// What was last sent, for a relay that answers late. Atomic, because a lock may be held while Ruby forks.
static IS_OFF: AtomicBool = AtomicBool::new(false);
static TRAPPED: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicI32 = AtomicI32::new(0);

/// Starts a relay for the calling process, once, if its signal path needs one. `command` is the native command;
/// `timeout` is Sidekiq's `-t`, in seconds, if known. A process forked later uses its parent's relay, and has none of
/// its own. Takes 2 s at most; the relay may take longer.
pub fn start(command: &Path, timeout: Option<f64>) -> &'static Report {
    IS_OFF.store(false, SeqCst);
    STARTED.get_or_init(|| {
        let pid = nix::unistd::getpid().as_raw();
        if Snapshot::caller() != Some(pid) || Snapshot::path(pid).without_relay().to_be_relayed().is_empty() {
            return Report::default();
        }
        launch(command, pid, stop_timeout::longest_stop(Need { timeout, hooks: 0.0 }))
            .unwrap_or_else(Report::of_failure)
    })
}

/// Dismisses the relay, if there is one.
pub fn stop() {
    IS_OFF.store(true, SeqCst);
    send(Message::Leave);
}

/// Sends the relay how long the stop may take, whenever more is known of it.
pub fn limit(need: Need) {
    let seconds = whole_seconds(stop_timeout::longest_stop(need));
    LIMIT.store(seconds, SeqCst);
    send(Message::StopLimit(seconds));
}

/// Tells the relay that the application has a trap of its own for a signal that would otherwise end Ruby.
pub fn trapped(signal: Signal) {
    TRAPPED.fetch_or(forwarding::with(0, signal as i32), SeqCst);
    send(Message::Trapped(signal as i32));
}

/// Tells a relay that has answered late what it has missed.
fn catch_up() {
    let mut limit = 0;
    // The other thread may send another one in between.
    while limit != LIMIT.load(SeqCst) {
        limit = LIMIT.load(SeqCst);
        send(Message::StopLimit(limit));
    }
    let trapped = TRAPPED.load(SeqCst);
    for signal in forwarding::RUBYS_OWN.into_iter().filter(|signal| forwarding::has(trapped, *signal)) {
        send(Message::Trapped(signal));
    }
    for signal in OBSERVED.into_iter().filter(|signal| observer::has_arrived(*signal)) {
        send(Message::Arrived(signal as i32));
    }
    if is_off() {
        send(Message::Leave);
    }
}

fn send(message: Message) {
    if let Some(relay) = relay_link::relay() {
        let _ = mailbox::send(&relay, message);
    }
}

/// Whether the relay was dismissed, and none is wanted.
#[must_use]
pub fn is_off() -> bool {
    IS_OFF.load(SeqCst)
}

/// The report of the calling process's relay at its start; `None` if none was started.
#[must_use]
pub fn report() -> Option<&'static Report> {
    STARTED_LATE.get().or_else(|| STARTED.get())
}

/// Whether a relay has not answered yet, and may still do so.
#[must_use]
pub fn is_pending() -> bool {
    PENDING_IN.load(SeqCst) == nix::unistd::getpid().as_raw()
}

/// The relay's pid, while it runs.
#[must_use]
pub fn alive() -> Option<i32> {
    let relay = relay_link::relay().filter(|relay| !pidfd::has_ended(relay));
    relay.and(report()).and_then(|report| report.pid)
}

/// Everything that may hang runs on another thread, which is abandoned in the end: an executable on a disk that does not
/// answer, a process that cannot be inspected.
fn launch(command: &Path, pid: i32, limit: Duration) -> io::Result<Report> {
    let launching = Arc::new(Launching::default());
    // Without a buffer, so that no report of a relay remains in it unread.
    let (sender, receiver) = mpsc::sync_channel(0);
    let mut command = command_line(command, pid, limit);
    let work = {
        let launching = Arc::clone(&launching);
        move || {
            let report = launching.run(&mut command);
            let started = report.as_ref().ok().and_then(|report| report.pid);
            if sender.send(report).is_err() {
                // Nobody waits any longer.
                let _ = started.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
            }
        }
    };
    disposition::spawn("lifecycle relay", work)?;
    match receiver.recv_timeout(PATIENCE) {
        Ok(report) => report.and_then(adopt),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("its start failed")),
        Err(RecvTimeoutError::Timeout) => {
            PENDING_IN.store(pid, SeqCst);
            let waiting = Arc::clone(&launching);
            if disposition::spawn("lifecycle relay", move || wait_longer(&waiting, receiver)).is_err() {
                PENDING_IN.store(0, SeqCst);
                launching.give_up_for_good();
            }
            Err(no_answer(PATIENCE))
        }
    }
}

fn no_answer(patience: Duration) -> io::Error {
    io::Error::other(format!("it gave no answer within {} s", patience.as_secs()))
}

/// Takes a relay that answers late. The next check of the signal path reports it, or why there is none.
fn wait_longer(launching: &Launching, receiver: Receiver<io::Result<Report>>) {
    let report = launching.late_report(receiver, LATE_PATIENCE).and_then(adopt);
    catch_up();
    let _ = STARTED_LATE.set(report.unwrap_or_else(Report::of_failure));
    PENDING_IN.store(0, SeqCst);
}

/// Links this process to the relay that has reported, if there is one.
fn adopt(report: Report) -> io::Result<Report> {
    if let Some(pid) = report.pid {
        let relay = PidFd::open(pid).inspect_err(|_| {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        })?;
        relay_link::set(relay);
    }
    Ok(report)
}

/// It starts a second instance and exits, so that the second one is nobody's child.
fn command_line(command: &Path, pid: i32, limit: Duration) -> Command {
    let start_time = processes::start_time(pid).unwrap_or_default();
    let mut line = Command::new(command);
    line.arg0(RELAY)
        .args([pid.to_string(), start_time.to_string(), whole_seconds(limit).to_string(), "start".to_owned()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    line
}

fn whole_seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(i32::MAX)
}

/// The started process, while it is waited for.
#[derive(Debug, Default)]
struct Launching {
    child: Mutex<Option<Child>>,
    is_given_up: AtomicBool,
}

impl Launching {
    fn run(&self, command: &mut Command) -> io::Result<Report> {
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        *self.child() = Some(child);
        if self.is_given_up.load(SeqCst) {
            self.give_up();
        }
        let mut answer = Vec::new();
        if let Some(mut output) = output {
            output.read_to_end(&mut answer)?;
        }
        let report = serde_json::from_slice(&answer);
        self.give_up();
        report.map_err(|_| io::Error::other("it gave no answer"))
    }

    /// The report of a relay that gets so much more time; after that it is given up.
    fn late_report(&self, receiver: Receiver<io::Result<Report>>, patience: Duration) -> io::Result<Report> {
        receiver.recv_timeout(patience).unwrap_or_else(|_| {
            drop(receiver);
            self.give_up_for_good();
            Err(no_answer(PATIENCE + patience))
        })
    }

    fn give_up_for_good(&self) {
        self.is_given_up.store(true, SeqCst);
        self.give_up();
    }

    /// Ends the process that was started, whatever it does, and reaps it. The relay itself is another process.
    fn give_up(&self) {
        let Some(mut child) = self.child().take() else { return };
        // Somebody else may have reaped it, and its pid may belong to another process.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        let _ = child.kill();
        // Only a process that is stuck in the kernel still exists by then. With CHLD ignored there is nothing to
        // reap.
        for _ in 0..100 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that hangs, and the thread that waits for its answer.
    fn hanging() -> (Arc<Launching>, Receiver<io::Result<Report>>, thread::JoinHandle<bool>) {
        let launching = Arc::new(Launching::default());
        let (sender, receiver) = mpsc::sync_channel(0);
        let starting = Arc::clone(&launching);
        let work = move || {
            let report = starting.run(Command::new("sleep").arg("600").stdout(Stdio::piped()));
            sender.send(report).is_err()
        };
        (launching, receiver, thread::spawn(work))
    }

    #[test]
    fn gives_up_a_command_that_hangs_and_ends_it() {
        let (launching, receiver, work) = hanging();
        let report = launching.late_report(receiver, Duration::from_millis(10));
        assert_eq!(report.unwrap_err().to_string(), "it gave no answer within 2 s");
        // It ends only when the command has ended.
        assert!(work.join().unwrap(), "somebody still waits for the report");
    }
}
