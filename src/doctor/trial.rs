//! `doctor -- COMMAND`: launches a command line as PID 1 of a new PID namespace, waits until a Sidekiq has started in
//! it, examines it, and sends PID 1 a real SIGTSTP and a real SIGTERM.
//!
//! A Sidekiq with the gem takes as long to stop as it may: an idle one would exit at once, and would not show which
//! program kills it a few seconds later.
//!
//! The command's output is captured, and shown if no Sidekiq starts.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::examination::Measured;
use super::report::{Report, SCHEMA, examine, find, is_started};
use super::text::print;
use crate::model::diagnosis::Verdict;
use crate::model::duration;
use crate::model::signal_path::Fate;
use crate::model::state::State;
use crate::model::stop_timeout::EPILOGUE;
use crate::model::variables;
use crate::output::progress::{Progress, Step};
use crate::store::directory::Directory;
use crate::store::lookup::ObservedProcess;
use crate::store::record::Record;
use crate::sys::namespace;
use crate::sys::procfs::Snapshot;

/// Sidekiq receives a signal long before that, and an idle one ends within 3 s: it waits for its fetch to return.
const IDLE: Duration = Duration::from_secs(10);
/// Sidekiq's default `-t`, used if it is not known.
const DEFAULT_TIMEOUT: f64 = 25.0;
/// The Sidekiqs of one command do not all start at the same moment.
const SETTLED: Duration = Duration::from_secs(1);
const LINES_SHOWN: usize = 20;

/// Runs the trial of a command line and prints the result; returns the exit code.
///
/// # Errors
/// The output cannot be written because its reader has exited, or there is no place for temporary files.
pub fn main(out: &mut impl Write, command: &[OsString], timeout: Duration, json: bool) -> io::Result<u8> {
    // Any user may write to it, because the command may change the user.
    let home = tempfile::Builder::new()
        .prefix("sidekiq-lifecycle-doctor")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()?;
    let path = home.path().join("sidekiq");
    fs::create_dir(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o1777))?;
    let interrupted = Arc::new(AtomicUsize::new(0));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let number = usize::try_from(signal).unwrap_or_default();
        signal_hook::flag::register_usize(signal, Arc::clone(&interrupted), number)?;
    }
    let report = match Trial::start(command, Directory::new(&path, None), interrupted.clone()) {
        Ok(mut trial) => trial.run(timeout),
        Err(error) => Err(error),
    };
    // 128 + n, as a shell would report it.
    if let Ok(signal @ 1..) = u8::try_from(interrupted.load(SeqCst)) {
        return Ok(128 + signal);
    }
    let report = report.unwrap_or_else(|error| Report::failed(&error.to_string()));
    print(out, &report, json)?;
    Ok(report.exit_code())
}

impl Report {
    fn failed(reason: &str) -> Self {
        let summary = format!("{}: {reason}", Verdict::Unknown);
        Self { schema: SCHEMA, verdict: Verdict::Unknown, summary, sidekiqs: Vec::new() }
    }
}

/// Why the trial has no result.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "creating a PID namespace is not allowed here ({0}); run the doctor as root outside of a container, or in one \
         started with docker run --privileged"
    )]
    NoNamespace(io::Error),
    #[error("cannot start {program} in a new PID namespace ({error})")]
    NotStarted { program: String, error: io::Error },
    #[error("the command ended before a Sidekiq had started ({0})")]
    Ended(ExitStatus),
    #[error("no Sidekiq started within {}; use --timeout DURATION to wait longer", duration::format(.0.as_secs_f64()))]
    TimedOut(Duration),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    System(#[from] io::Error),
}

struct Trial {
    first: Child,
    ended: Option<ExitStatus>,
    output: File,
    directory: Directory,
    interrupted: Arc<AtomicUsize>,
}

impl Trial {
    fn start(command: &[OsString], directory: Directory, interrupted: Arc<AtomicUsize>) -> Result<Self, Error> {
        let output = tempfile::tempfile()?;
        namespace::enter().map_err(Error::NoNamespace)?;
        let environment = [(variables::DIRECTORY, directory.path().as_os_str()), (variables::TRIAL, OsStr::new("1"))];
        let first = namespace::start(command, &environment, &output).map_err(|error| {
            let program = command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            Error::NotStarted { program, error }
        })?;
        Ok(Self { first, ended: None, output, directory, interrupted })
    }

    fn run(&mut self, timeout: Duration) -> Result<Report, Error> {
        let found = self.wait_for_sidekiqs(timeout)?;
        let all = Snapshot::living();
        let examined = examine(&found, &all, |_| None);
        let measured = self.measure(&found);
        let sidekiqs = examined.into_iter().zip(measured).map(|(one, measured)| one.with(measured)).collect();
        Ok(Report::new(sidekiqs, "none started in the trial"))
    }

    /// Waits until every Sidekiq that exists has started: with the gem its record shows that, without it its title
    /// does.
    fn wait_for_sidekiqs(&mut self, timeout: Duration) -> Result<Vec<ObservedProcess>, Error> {
        let began = Instant::now();
        let (mut progress, waiting) = (Progress::default(), "waiting for a Sidekiq to start");
        let (mut before, mut since) = (Vec::new(), began);
        loop {
            if self.is_interrupted() {
                return Err(Error::Interrupted);
            }
            if let Some(status) = self.has_ended() {
                drop(progress);
                self.show_output();
                return Err(Error::Ended(status));
            }
            let found = find(&Snapshot::living(), &self.directory);
            let standing: Vec<i32> = found.iter().filter(|found| has_started(found)).map(|found| found.pid).collect();
            if standing.is_empty() || standing.len() < found.len() || standing != before {
                since = Instant::now();
            } else if since.elapsed() > SETTLED {
                return Ok(found);
            }
            before = standing;
            if began.elapsed() > timeout {
                drop(progress);
                self.show_output();
                return Err(Error::TimedOut(timeout));
            }
            show(&mut progress, waiting, began.elapsed());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends the signals, and measures what becomes of every Sidekiq.
    fn measure(&mut self, found: &[ObservedProcess]) -> Vec<Measured> {
        let quiet = self.measure_quiet(found);
        let stop = match self.has_ended() {
            None => self.measure_stop(found),
            Some(_) => {
                let words = "the SIGTSTP ended the command, so no SIGTERM was sent".to_owned();
                vec![Measured { fate: None, words, tstp: String::new() }; found.len()]
            }
        };
        stop.into_iter().zip(quiet).map(|(measured, tstp)| Measured { tstp, ..measured }).collect()
    }

    fn send(&self, signal: Signal) {
        let _ = i32::try_from(self.first.id()).map(|pid| kill(Pid::from_raw(pid), signal));
    }

    /// Sends a TSTP; returns what each Sidekiq did, in words. Continues what it has suspended.
    fn measure_quiet(&mut self, found: &[ObservedProcess]) -> Vec<String> {
        let sent = Instant::now();
        self.send(Signal::SIGTSTP);
        let (mut progress, waiting) = (Progress::default(), "waiting for Sidekiq to go quiet");
        let mut words: Vec<Option<String>> = vec![None; found.len()];
        while words.iter().any(Option::is_none) && self.has_ended().is_none() && !self.is_interrupted() {
            let elapsed = sent.elapsed();
            for (found, words) in found.iter().zip(&mut words).filter(|(_, words)| words.is_none()) {
                *words = self.made_of_tstp(found, elapsed);
            }
            show(&mut progress, waiting, elapsed);
            thread::sleep(Duration::from_millis(20));
        }
        for stopped in Snapshot::living().iter().filter(|snapshot| snapshot.state == 'T') {
            let _ = kill(Pid::from_raw(stopped.pid), Signal::SIGCONT);
        }
        let ended = "a SIGTSTP to PID 1 ended the command".to_owned();
        words.into_iter().map(|words| words.unwrap_or_else(|| ended.clone())).collect()
    }

    fn made_of_tstp(&self, found: &ObservedProcess, elapsed: Duration) -> Option<String> {
        let seconds = elapsed.as_secs_f64();
        let is_quiet = match record(found) {
            Some(record) => record.state >= State::Quiet,
            None => self.said().contains("Received TSTP"),
        };
        if is_quiet {
            return Some(format!("a SIGTSTP to PID 1 quieted Sidekiq after {seconds:.1} s"));
        }
        if elapsed <= IDLE {
            return None;
        }
        let is_frozen = Snapshot::of(found.pid).is_some_and(|now| now.state == 'T');
        let what = if is_frozen { "froze Sidekiq" } else { "did not reach Sidekiq" };
        Some(format!("a SIGTSTP to PID 1 {what} within {} s", IDLE.as_secs()))
    }

    /// Sends a TERM; returns what became of each Sidekiq.
    fn measure_stop(&mut self, found: &[ObservedProcess]) -> Vec<Measured> {
        let sent = Instant::now();
        self.send(Signal::SIGTERM);
        let mut ended: Vec<Option<Duration>> = vec![None; found.len()];
        let deadline = |found: &ObservedProcess| {
            let timeout = timeout_of(found).unwrap_or(DEFAULT_TIMEOUT);
            IDLE.saturating_add(Duration::try_from_secs_f64(timeout + EPILOGUE).unwrap_or_default())
        };
        let (mut progress, waiting) = (Progress::default(), "waiting for Sidekiq to exit");
        while ended.iter().any(Option::is_none) && !self.is_interrupted() {
            let elapsed = sent.elapsed();
            for (found, ended) in found.iter().zip(&mut ended) {
                let is_there = Snapshot::of(found.pid)
                    .is_some_and(|now| Some(now.start_time) == started(found) && !now.has_ended());
                if ended.is_none() && !is_there {
                    *ended = Some(elapsed);
                }
            }
            let is_hopeless = |found: &ObservedProcess| !self.has_received(found) && elapsed > IDLE;
            let waits = |(found, ended): (&ObservedProcess, &Option<Duration>)| {
                ended.is_none() && !is_hopeless(found) && elapsed < deadline(found)
            };
            if !found.iter().zip(&ended).any(waits) {
                break;
            }
            show(&mut progress, waiting, elapsed);
            thread::sleep(Duration::from_millis(20));
        }
        drop(progress);
        let is_over = ended.iter().any(Option::is_none) || self.ends_soon();
        found
            .iter()
            .zip(ended)
            .map(|(found, ended)| {
                let Measured { fate, mut words, tstp } = self.measured(found, ended);
                if !is_over {
                    words += "; PID 1 keeps running, so a container would be killed at the end of its stop timeout";
                }
                Measured { fate, words, tstp }
            })
            .collect()
    }

    fn measured(&self, found: &ObservedProcess, ended: Option<Duration>) -> Measured {
        let seconds = ended.map(|ended| format!("{:.1} s", ended.as_secs_f64())).unwrap_or_default();
        let said = self.said();
        // Sidekiq's own log, if it is in the captured output (cli.rb).
        let is_logged = said.contains("Running in ruby");
        let is_whole = match record(found) {
            Some(record) => Some(record.state == State::Stopped),
            None if said.contains("Bye!") => Some(true),
            None => is_logged.then_some(false),
        };
        let timeout = timeout_of(found);
        // A Sidekiq that ended before -t had passed was idle.
        let was_busy = ended.zip(timeout).is_some_and(|(ended, timeout)| ended.as_secs_f64() >= timeout);
        let (fate, words) = match (ended, is_whole) {
            (Some(_), Some(true)) if was_busy => {
                let words = "a SIGTERM to PID 1 stopped Sidekiq as it should";
                (Some(Fate::Arrives), format!("{words} after {seconds}, with a job that ran for as long as -t allows"))
            }
            (Some(_), Some(true)) => {
                let words = "a SIGTERM to PID 1 stopped an idle Sidekiq as it should";
                (None, format!("{words} after {seconds}; whether a running job would get enough time was not measured"))
            }
            (Some(_), Some(false)) => (
                Some(Fate::CutShort),
                format!("a SIGTERM to PID 1 got Sidekiq killed after {seconds}, before it had finished"),
            ),
            (Some(_), None) => (
                None,
                format!("a SIGTERM to PID 1 ended Sidekiq after {seconds}; whether it had finished is not visible"),
            ),
            (None, _) if self.has_received(found) => {
                (None, "a SIGTERM to PID 1 arrived, but Sidekiq did not end within the time that it has".to_owned())
            }
            (None, _) if found.record.is_ok() || is_logged => {
                (Some(Fate::Lost), format!("a SIGTERM to PID 1 did not reach Sidekiq within {} s", IDLE.as_secs()))
            }
            (None, _) => (None, format!("a SIGTERM to PID 1 did not end Sidekiq within {} s", IDLE.as_secs())),
        };
        Measured { fate, words, tstp: String::new() }
    }

    fn has_received(&self, found: &ObservedProcess) -> bool {
        match record(found) {
            Some(record) => record.state >= State::Stopping,
            None => self.said().contains("Shutting down"),
        }
    }

    /// Read without moving the offset: the command writes through descriptors of the same open file.
    fn said(&self) -> String {
        let mut bytes = Vec::new();
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = self.output.read_at(&mut buffer, bytes.len() as u64) {
            bytes.extend(buffer.iter().take(count));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn show_output(&self) {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let from = lines.len().saturating_sub(LINES_SHOWN);
        for line in lines.iter().skip(from) {
            eprintln!("{}", crate::model::text::one_line(line));
        }
    }

    fn ends_soon(&mut self) -> bool {
        let since = Instant::now();
        while self.has_ended().is_none() && since.elapsed() < IDLE && !self.is_interrupted() {
            thread::sleep(Duration::from_millis(20));
        }
        self.has_ended().is_some()
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.first.try_wait().ok().flatten();
        }
        self.ended
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(SeqCst) != 0
    }
}

impl Drop for Trial {
    /// Everything in the namespace ends with its PID 1.
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn record(found: &ObservedProcess) -> Option<Record> {
    let identity = &found.record.as_ref().ok()?.identity;
    let entries = found.directory.entries_of(identity.pid).ok()?;
    entries.into_iter().filter_map(|entry| entry.record.ok()).find(|record| record.identity == *identity)
}

fn has_started(found: &ObservedProcess) -> bool {
    match &found.record {
        Ok(record) => record.state >= State::Running,
        Err(_) => found.snapshot.as_ref().is_some_and(is_started),
    }
}

fn timeout_of(found: &ObservedProcess) -> Option<f64> {
    found.record.as_ref().ok()?.about.timeout
}

fn started(found: &ObservedProcess) -> Option<u64> {
    found.snapshot.as_ref().map(|snapshot| snapshot.start_time)
}

/// Only on a terminal: a log has the command's own output.
fn show(progress: &mut Progress, message: &str, elapsed: Duration) {
    if io::stderr().is_terminal() {
        progress.show(&Step { message: message.to_owned(), begun: elapsed.as_secs_f64(), ..Step::default() });
    }
}
