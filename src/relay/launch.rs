//! Starts the relay, from inside of the worker, and keeps it informed.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::model::program::RELAY;
use crate::model::relay_message::Message;
use crate::model::stop_timeout;
use crate::relay::report::Report;
use crate::sys::identity as processes;
use crate::sys::mailbox;
use crate::sys::pidfd::{self, PidFd};
use crate::sys::procfs::Snapshot;
use crate::sys::signals::{disposition, relay_link};

/// How long the boot waits for the relay. It takes some milliseconds, unless the gem's disk or /proc hangs.
const PATIENCE: Duration = Duration::from_secs(2);

static STARTED: OnceLock<Report> = OnceLock::new();
static IS_OFF: AtomicBool = AtomicBool::new(false);

/// Starts a relay for the calling process, once, if its signal path needs one. `command` is the native command;
/// `timeout` is Sidekiq's `-t`, in seconds, if known. A process forked later uses its parent's relay, and has none of
/// its own. Takes 2 s at most.
pub fn start(command: &Path, timeout: Option<f64>) -> &'static Report {
    IS_OFF.store(false, SeqCst);
    STARTED.get_or_init(|| {
        let pid = nix::unistd::getpid().as_raw();
        if Snapshot::caller() != Some(pid) || Snapshot::path(pid).without_relay().to_be_relayed().is_empty() {
            return Report::default();
        }
        launch(command, pid, stop_timeout::longest_stop(timeout)).unwrap_or_else(|error| {
            let failure = Some(error.to_string());
            Report { failure, ..Report::default() }
        })
    })
}

/// Dismisses the relay, if there is one.
pub fn stop() {
    IS_OFF.store(true, SeqCst);
    send(Message::Leave);
}

/// Sends the relay Sidekiq's longest stop, after `-t` was set or changed.
pub fn limit(timeout: Option<f64>) {
    send(Message::StopLimit(whole_seconds(stop_timeout::longest_stop(timeout))));
}

/// Tells the relay that the application has a trap of its own for a signal that would otherwise end Ruby.
pub fn trapped(signal: Signal) {
    send(Message::Trapped(signal as i32));
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
    STARTED.get()
}

/// The relay's pid, while it runs.
#[must_use]
pub fn alive() -> Option<i32> {
    let relay = relay_link::relay().filter(|relay| !pidfd::has_ended(relay));
    relay.and(report()).and_then(|report| report.pid)
}

/// Everything that may hang runs on another thread, which is abandoned once the time is over: an executable on a disk
/// that does not answer, a process that cannot be inspected.
fn launch(command: &Path, pid: i32, limit: Duration) -> io::Result<Report> {
    let launching = Arc::new(Launching::default());
    let (sender, receiver) = mpsc::channel();
    let mut command = command_line(command, pid, limit);
    let work = {
        let launching = Arc::clone(&launching);
        move || {
            let report = launching.run(&mut command);
            let started = report.as_ref().ok().and_then(|report| report.pid);
            if sender.send(report).is_err() {
                // It has started too late.
                let _ = started.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
            }
        }
    };
    disposition::spawn("lifecycle relay", work)?;
    let report = match receiver.recv_timeout(PATIENCE) {
        Ok(report) => report?,
        Err(RecvTimeoutError::Timeout) => {
            drop(receiver);
            launching.is_late.store(true, SeqCst);
            launching.give_up();
            return Err(io::Error::other(format!("it gave no answer within {} s", PATIENCE.as_secs())));
        }
        Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("its start failed")),
    };
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
    is_late: AtomicBool,
}

impl Launching {
    fn run(&self, command: &mut Command) -> io::Result<Report> {
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        *self.child() = Some(child);
        if self.is_late.load(SeqCst) {
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

    /// Ends the process that was started, whatever it does, and reaps it. The relay itself is another process.
    fn give_up(&self) {
        let Some(mut child) = self.child().take() else { return };
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
