//! The life of the calling process, as the Ruby binding drives it.
//!
//! Everything that can fail here is kept as a *problem* in the process's own record; nothing is handed up as an
//! error, because no failure of ours may become the failure of somebody's Sidekiq. Ruby logs each problem once.
//!
//! The directory belongs to a thread of its own (`writer`). Sidekiq's threads wait for it, but not for long, and not at
//! all once it is known to be late: a disk that hangs keeps no Sidekiq from its shutdown. The thread that hears signals
//! never waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::getpid;

use crate::model::hook_time::Hooks;
use crate::model::probe::Presence;
use crate::model::sd_notify::{self, Situation, Told, Watchdog};
use crate::model::stall;
use crate::model::state::{Event, Progress, State};
use crate::model::stop_timeout::{self, Fit, Need, Source, StopTimeout};
use crate::model::text::masked;
use crate::store::directory::Directory;
use crate::store::error::Error;
use crate::store::files::Durability;
use crate::store::kept_descriptors::KeptDescriptors;
use crate::store::record::{About, Record};
use crate::store::report::Process;
use crate::store::writing::OpenDirectory;
use crate::sys::notify_socket::Socket;
use crate::sys::platform;
use crate::sys::procfs::Snapshot;
use crate::sys::signals::disposition::{self, OBSERVED};
use crate::sys::signals::observer;
use crate::sys::time_limit::{PATIENCE, in_time};

pub mod own_path;
pub mod vigil;
mod writer;

use writer::{Work, Writer};

/// How long the end of the process waits for it, all in all.
const FAREWELL: Duration = Duration::from_secs(1);

/// From when on it is a problem that the disk does not answer.
const LATE: Duration = Duration::from_secs(1);

/// One Sidekiq process. Every method does nothing in a forked child: a child owns nothing of its parent's.
#[derive(Debug)]
pub struct Lifecycle {
    owner: i32,
    directory: Directory,
    inner: Mutex<Inner>,
    writer: Writer,
    /// A thread of Ruby's that reports what there is to say.
    listener: vigil::Listener,
    /// Held by whoever writes where there is no writer's thread, so that what is written last is what is true last.
    /// `inner` is not held while the disk is written: a status never waits for it.
    writing: Mutex<KeptDescriptors>,
    /// Held while the service manager is told, for the same reason; `inner` is not.
    manager: Mutex<Option<Manager>>,
}

/// The service manager that has launched the process, and what it has been told.
#[derive(Debug)]
struct Manager {
    socket: Socket,
    told: Told,
    /// Ruby's heart feeds its watchdog.
    is_fed: bool,
    /// It listens to this process.
    is_heard: bool,
    /// Since when Sidekiq's own timeout may be running, and what hooks had taken then.
    stopping_since: Option<(Instant, f64)>,
}

/// What is told to a service manager from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speaks {
    /// When the process is ready, and when it stops.
    pub of_state: bool,
    /// That Ruby's heart beats, for the watchdog.
    pub of_heart: bool,
}

#[derive(Debug)]
struct Inner {
    progress: Progress,
    /// The application wants to be called ready only if a SIGTERM arrives and leaves the time that it takes.
    requires_path: bool,
    /// Why it cannot be told that a SIGTERM arrives.
    doubt: Option<String>,
    /// Why it can take no job.
    takes_no_job: Option<String>,
    record: Record,
    problems: BTreeMap<String, String>,
    /// The jobs in hand: their classes by their ids.
    jobs: BTreeMap<String, String>,
    hooks: Hooks,
    /// When Ruby's heart has last beaten.
    beat: Option<Instant>,
    /// How long it may be silent.
    limit: Duration,
    stuck: Option<vigil::Stuck>,
    /// Nobody looks at the heart any more until it beats.
    is_awaited: bool,
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        // In a forked child there is no thread, and nobody who would let go of its lock.
        if self.is_ours() {
            self.writer.close();
        }
    }
}

impl Lifecycle {
    /// Begins in state `booting`: clears what dead processes left, and registers.
    #[must_use]
    pub fn begin(directory: Directory, about: About) -> Arc<Self> {
        let ready_file = directory.ready_file().map(|file| file.display().to_string());
        let mut inner = Inner {
            progress: Progress::BEGIN,
            requires_path: false,
            doubt: None,
            takes_no_job: None,
            record: Record::begin(about, ready_file),
            problems: BTreeMap::new(),
            jobs: BTreeMap::new(),
            hooks: Hooks::default(),
            beat: None,
            limit: stall::limit(None, 0.0),
            stuck: None,
            is_awaited: false,
        };
        if let Some(seconds) = cleared_hooks(&directory) {
            inner.remember_hooks([seconds]);
        }
        let lifecycle = Arc::new(Self {
            owner: getpid().as_raw(),
            directory,
            inner: Mutex::new(inner),
            writer: Writer::default(),
            listener: vigil::Listener::default(),
            writing: Mutex::default(),
            manager: Mutex::new(None),
        });
        lifecycle.start_writer();
        lifecycle.look_at_path();
        lifecycle.look_at_time();
        lifecycle.hand_over(Work { sweep: true, publish: Some(Durability::Flushed), ..Work::default() });
        lifecycle.wait();
        lifecycle
    }

    fn start_writer(self: &Arc<Self>) {
        let lifecycle = Arc::downgrade(self);
        // The thread's own: the descriptors in it are no one else's to close.
        let mut kept = KeptDescriptors::default();
        let write = move |work| {
            if let Some(lifecycle) = lifecycle.upgrade() {
                lifecycle.write(work, &mut kept);
            }
        };
        let problem = self.writer.start(write).err().map(|error| {
            let path = self.directory.path().display();
            format!("there can be no thread to write {path} ({error}), so Sidekiq waits for its disk")
        });
        self.note("writer", problem);
    }

    /// Tells what Ruby has learnt of the process since it began.
    pub fn describe(&self, about: About) {
        if self.is_ours() {
            own_path::limit(about.timeout);
            self.known(|inner| inner.record.about = about);
            self.look_at_time();
        }
    }

    /// Whether the process may be called ready only if a SIGTERM arrives and Sidekiq is left the time it takes.
    pub fn require_signal_path(&self, required: bool) {
        if self.is_ours() {
            self.known(|inner| inner.requires_path = required);
            self.look_at_path();
            self.known(Inner::withhold);
        }
    }

    /// Begins to speak to the service manager, if one has launched this process (`$NOTIFY_SOCKET`). Ruby's heart beats
    /// every `pause` seconds.
    pub fn notify(self: &Arc<Self>, pause: f64) -> Speaks {
        if !self.is_ours() {
            return Speaks::default();
        }
        self.known(|inner| inner.limit = stall::limit(None, pause));
        let socket = Socket::of_environment();
        self.note("systemd", socket.as_ref().err().cloned());
        let Ok(Some(socket)) = socket else { return Speaks::default() };
        let of_environment = |name| std::env::var(name).ok();
        let (usec, pid) = (of_environment("WATCHDOG_USEC"), of_environment("WATCHDOG_PID"));
        let watchdog = sd_notify::watchdog(usec.as_deref(), pid.as_deref(), self.owner, pause);
        let is_fed = matches!(watchdog, Watchdog::Heart(_));
        if let Watchdog::Heart(seconds) = watchdog {
            self.known(|inner| inner.limit = stall::limit(Some(seconds), pause));
        }
        let problem = if let Watchdog::Sidekiqs(problem) = watchdog { Some(problem) } else { None };
        self.note("watchdog", problem);
        *self.manager.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Manager { socket, told: Told::default(), is_fed, is_heard: true, stopping_since: None });
        if let Some(main) = platform::other_main_process() {
            self.look_whether_heard(main);
        }
        self.tell_manager(false);
        Speaks { of_state: true, of_heart: is_fed }
    }

    /// systemd listens to the main process of a service alone, if its unit does not say otherwise. It is asked on a thread of its own,
    /// for no boot waits for systemd.
    fn look_whether_heard(self: &Arc<Self>, main: i32) {
        self.set_heard(false);
        let lifecycle = Arc::clone(self);
        let ask = move || {
            let service = platform::service(lifecycle.owner);
            if service.as_ref().is_some_and(|service| service.hears_all) {
                return lifecycle.set_heard(true);
            }
            // Where systemd cannot be asked (an ordinary user without D-Bus) it may be set.
            let unless = if service.is_some() { "" } else { " unless NotifyAccess=all is set" };
            let name = Snapshot::of(main).map_or_else(String::new, |main| format!(" ({})", main.name));
            let problem = format!(
                "systemd listens to the main process of the service, pid {main}{name}, and not to this one{unless}: it does not hear \
                 that this process is ready, and ends a start of Type=notify after TimeoutStartSec; let ExecStart= become \
                 Sidekiq itself (exec in a script, User= in place of su or sudo), or set NotifyAccess=all"
            );
            lifecycle.note("main process", Some(problem));
        };
        let asking = disposition::spawn("lifecycle systemd", ask);
        if let Err(error) = asking {
            self.note("main process", Some(format!("there can be no thread to ask systemd ({error})")));
        }
    }

    fn set_heard(&self, is_heard: bool) {
        if let Some(manager) = self.manager.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            manager.is_heard = is_heard;
        }
    }

    /// A signal has arrived.
    pub fn arrived(&self, signal: Signal) {
        self.heard(signal);
        self.wait();
    }

    fn heard(&self, signal: Signal) {
        let event = match signal {
            Signal::SIGTSTP => Event::Quieted,
            _ => Event::Stopped,
        };
        self.happened(event, Some(signal.to_string()));
    }

    /// Every `:startup` hook has run and Sidekiq's threads are there.
    pub fn started(&self) {
        if self.is_ours() {
            // Ruby's heart has just been seen to beat; Sidekiq's own first beat is about to come.
            self.heart_beats();
            self.look_at_path();
            self.look_at_company();
            self.catch_up();
            self.happened(Event::Started, None);
            self.wait();
        }
    }

    /// Sidekiq was told to stop fetching.
    pub fn quieted(&self) {
        self.catch_up();
        self.happened(Event::Quieted, Some("quiet was called".to_owned()));
        self.wait();
    }

    /// Sidekiq was told to stop.
    pub fn stopping(&self) {
        self.catch_up();
        self.happened(Event::Stopped, Some("stop was called".to_owned()));
        // Ruby may have come to it long after the signal, and its own timeout has only just begun.
        if self.is_ours() {
            if let Some(manager) = self.manager.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                manager.stopping_since = None;
            }
            self.tell_manager(false);
        }
        self.wait();
    }

    /// Ruby's heart has beaten, with `busy` jobs in hand.
    pub fn beat(&self, busy: u32) {
        if !self.is_ours() {
            return;
        }
        self.heart_beats();
        self.known(|Inner { record, .. }| record.busy = if record.drained { 0 } else { busy });
        self.look_at_path();
        self.tell_manager(true);
        self.hand_over(Work { strangers: true, publish: Some(Durability::Whole), ..Work::default() });
        self.wait();
    }

    /// A job is finished with while the process drains; `busy` are left.
    pub fn draining(&self, busy: u32) {
        let is_news = |Inner { record, .. }: &mut Inner| {
            let is_news = !record.drained && record.busy != busy;
            if is_news {
                record.busy = busy;
            }
            is_news
        };
        if self.is_ours() && self.known(is_news) {
            self.tell_manager(false);
            self.publish(Durability::Whole);
            self.wait();
        }
    }

    /// Why it can take no job, and why it can never have drained, as far as Ruby knows.
    pub fn hindered(&self, takes_no_job: Option<String>, never_drains: Option<String>) {
        let is_news = |inner: &mut Inner| {
            let is_news = inner.takes_no_job != takes_no_job || inner.record.never_drains != never_drains;
            inner.takes_no_job = takes_no_job;
            inner.record.never_drains = never_drains;
            inner.withhold();
            is_news
        };
        if self.is_ours() && self.known(is_news) {
            self.tell_manager(false);
            self.publish(Durability::Whole);
            self.wait();
        }
    }

    /// Sidekiq has finished with every job it had fetched and fetches no more. Tells whether that is news.
    pub fn drained(&self) -> bool {
        let is_news = |Inner { record, .. }: &mut Inner| {
            let is_news = !record.drained && matches!(record.state, State::Quiet | State::Stopping);
            if is_news {
                record.drains();
            }
            is_news
        };
        let is_news = self.is_ours() && self.known(is_news);
        if is_news {
            self.tell_manager(false);
            self.publish(Durability::Flushed);
            self.wait();
        }
        is_news
    }

    /// The process is ending with this status, and why, beside what it was told to stop by. Without a status only
    /// Sidekiq has ended, inside a program that goes on.
    pub fn ended(&self, status: Option<i32>, why: Option<String>) {
        if !self.is_ours() {
            return;
        }
        let deadline = Instant::now() + FAREWELL;
        self.catch_up();
        let state = self.known(|inner| inner.record.state);
        self.hooks_end();
        let why = self.known(|Inner { record, .. }| {
            record.exit_status = status;
            let told = record.why.clone().filter(|_| state == State::Stopping);
            match (told, why) {
                (Some(told), Some(why)) if !why.contains(&told) => Some(format!("{told}, {why}")),
                (told, why) => why.or(told),
            }
        });
        self.note_hooks();
        self.happened(Event::Ended, why);
        self.writer.wait(deadline);
    }

    /// A signal's handler had been replaced; puts the observer's back and counts it.
    pub fn rearm(&self, signal: Signal) {
        if !self.is_ours() {
            return;
        }
        let problem =
            observer::reinstall(signal).err().map(|errno| format!("{signal} cannot be observed: {}", errno.desc()));
        self.note(signal.as_str(), problem);
        self.known(|inner| *inner.record.rearmed.entry(signal.to_string()).or_default() += 1);
        self.publish(Durability::Whole);
        self.wait();
    }

    /// Keeps a problem under a name, or clears it.
    pub fn note(&self, name: &str, problem: Option<String>) {
        self.known(|Inner { record, problems, .. }| {
            match problem {
                Some(problem) => drop(problems.insert(name.to_owned(), masked(&problem))),
                None => drop(problems.remove(name)),
            }
            record.problems = problems.values().cloned().collect();
        });
    }

    /// The record as it stands now.
    #[must_use]
    pub fn record(&self) -> Record {
        self.known(|inner| inner.record.clone())
    }

    /// The record and what the probes answer, as JSON (see [`Process`]).
    ///
    /// # Errors
    /// What could not be written as JSON.
    pub fn report(&self) -> Result<String, String> {
        self.look_whether_late();
        let record = self.record();
        let facts = record.facts_with(Presence::Here);
        serde_json::to_string(&Process::new(&Ok(record), &facts)).map_err(|error| error.to_string())
    }

    /// Withdraws the record and leaves the directory to others: the application has chosen another one.
    pub fn retire(&self) {
        if self.is_ours() {
            self.hand_over(Work { retire: true, ..Work::default() });
            self.wait();
            self.writer.close();
        }
    }

    /// Whether the calling process is the one this speaks of.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        getpid().as_raw() == self.owner
    }

    /// Sidekiq's hooks, and even its end, follow a signal so closely that they may come before the observer's thread
    /// has told of it. Those that stop come first: of TERM Sidekiq makes a `:quiet` and a `:shutdown`.
    fn catch_up(&self) {
        OBSERVED.into_iter().filter(|signal| observer::has_arrived(*signal)).for_each(|signal| self.arrived(signal));
    }

    fn happened(&self, event: Event, why: Option<String>) {
        if !self.is_ours() {
            return;
        }
        let moved = self.known(|Inner { progress, record, .. }| {
            let after = progress.after(event);
            let moved = after.state != progress.state;
            *progress = after;
            if moved {
                // Started, and quiet at once: it was told so while it booted.
                let early = || (after.state == State::Quiet).then(|| "SIGTSTP while booting".to_owned());
                record.enter(after.state, why.or_else(early));
            }
            moved.then_some(after.state)
        });
        let Some(state) = moved else { return };
        // First of all, so that the ready file is gone before anything else is done.
        let withdraw = state > State::Running;
        self.hand_over(Work { withdraw, publish: Some(Durability::Flushed), ..Work::default() });
        self.tell_manager(false);
    }

    /// Tells the service manager how it stands. What did not reach it is said again at the next beat.
    fn tell_manager(&self, heart_has_beaten: bool) {
        let late = self.look_whether_late();
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Manager { socket, told, is_fed, stopping_since, .. }) = manager.as_mut() else { return };
        let record = self.record();
        let time = record.about.timeout.filter(|_| record.state == State::Stopping);
        let left = time.map(|timeout| {
            let now = Instant::now();
            let (taken, to_come) = self.known(|Inner { hooks, .. }| (hooks.so_far(now), hooks.to_come(now)));
            let (since, before) = *stopping_since.get_or_insert((now, taken));
            timeout + stop_timeout::EPILOGUE + to_come + (taken - before)
                - now.saturating_duration_since(since).as_secs_f64()
        });
        let now = Situation {
            state: record.state,
            drained: record.drained,
            withheld: record.withheld.as_deref(),
            busy: record.busy,
            concurrency: record.about.concurrency,
            left: left.unwrap_or_default(),
            exit_status: record.exit_status,
            why: record.why.as_deref(),
            late: late.as_deref(),
        };
        let sent = socket.send(&sd_notify::notice(*told, &now, heart_has_beaten && *is_fed));
        if sent.is_ok() {
            *told = told.with(&now);
        }
        self.note("systemd", sent.err());
    }

    fn publish(&self, durability: Durability) {
        self.hand_over(Work { publish: Some(durability), ..Work::default() });
    }

    /// Hands work to the writer; without one the calling thread does it.
    fn hand_over(&self, work: Work) {
        if !self.writer.hand_over(work) {
            self.write(work, &mut self.writing.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits a moment until all that was handed over is done, so that it can be seen when a hook returns. Whoever comes
    /// after one that has waited in vain does not wait again.
    fn wait(&self) {
        if self.is_ours() {
            let left = PATIENCE.saturating_sub(self.writer.behind());
            self.writer.wait(Instant::now() + left);
        }
    }

    /// A writer that is late is a problem, until it has caught up.
    fn look_whether_late(&self) -> Option<String> {
        if !self.is_ours() {
            return None;
        }
        let problem = (self.writer.behind() >= LATE).then(|| Error::Late(self.directory.path().to_owned()).to_string());
        self.note("late", problem.clone());
        problem
    }

    // ---- on the writer's thread ----

    /// Does the work. Where no descriptor is left for it, what is kept for that is given up, and it is done once more.
    fn write(&self, work: Work, kept: &mut KeptDescriptors) {
        if self.try_to_write(work, kept) && kept.release() {
            self.try_to_write(work, kept);
        }
    }

    /// Tells whether it has failed for want of descriptors.
    fn try_to_write(&self, work: Work, kept: &mut KeptDescriptors) -> bool {
        let is_urgent = || self.writer.take_withdrawal();
        let mut is_out = false;
        let mut note = |done: Result<(), Error>| {
            let error = done.err();
            is_out |= error.as_ref().is_some_and(Error::is_out_of_descriptors);
            self.note("directory", error.map(|error| error.to_string()));
        };
        let open = match self.directory.open_with(&is_urgent) {
            Ok(open) => open,
            Err(error) => {
                note(Err(error));
                return is_out;
            }
        };
        if work.withdraw {
            note(open.withdraw_ready());
        }
        if work.sweep {
            let hooks = open.hooks();
            self.known(|inner| inner.remember_hooks(hooks));
            note(sweep(&open));
        }
        if work.strangers {
            self.check_sharing(&open);
        }
        if let Some(durability) = work.publish {
            note(self.write_record(&open, durability));
        }
        if work.retire {
            note(self.leave(&open));
            kept.release();
        } else {
            kept.keep(open, !self.writer.has_own_descriptors());
        }
        is_out
    }

    fn write_record(&self, open: &OpenDirectory<'_>, durability: Durability) -> Result<(), Error> {
        let record = self.record();
        // Before the lock: what is true of this process waits for nobody, and whoever settles last has read it.
        let written = open.publish_record(&record, durability);
        let lock = open.lock();
        // Whatever became of the record, the sentinels must not lie.
        let settled = open.sync_sentinels(|| Some(self.record()));
        drop(lock);
        let published = written.and(settled);
        self.note("directory", published.as_ref().err().map(ToString::to_string));
        if self.writer.is_last() {
            self.note("late", None);
        }
        let noted = self.record();
        if noted.problems != record.problems {
            let _ = open.publish_record(&noted, Durability::Whole);
        }
        published
    }

    fn leave(&self, open: &OpenDirectory<'_>) -> Result<(), Error> {
        let _lock = open.lock();
        open.withdraw_record(&self.record().identity)?;
        open.sync_sentinels(|| None)
    }

    fn check_sharing(&self, open: &OpenDirectory<'_>) {
        let problem = open.foreign_process(&self.record()).map(|pid| {
            let path = self.directory.path().display();
            format!(
                "process {pid} of another container or machine uses {path} as well; give each a directory of its own"
            )
        });
        self.note("sharing", problem);
    }

    // ---- on the others ----

    /// A shell may have become another program or ended, the relay may have been killed.
    fn look_at_path(&self) {
        let (is_embedded, needed) = self.known(|Inner { record, .. }| (record.about.embedded, need(record).seconds()));
        if is_embedded {
            return;
        }
        let Some((path, problem)) = own_path::own(needed) else { return };
        self.known(|inner| {
            inner.doubt = problem.clone().filter(|_| path.term.is_bad()).or_else(|| path.doubt.clone());
            inner.record.signal_path = Some(path);
            inner.withhold();
        });
        self.note("signal path", problem);
    }

    /// For `fleet stop`, which cannot look from afar.
    fn look_at_company(&self) {
        if !self.known(|inner| inner.record.about.embedded) {
            let company = Snapshot::company(self.owner, &Snapshot::living(), &[]);
            self.known(|inner| inner.record.company = company);
        }
    }

    /// What can be told at once; systemd would have to be asked, and no hook waits for it.
    fn look_at_time(&self) {
        let record = self.record();
        if record.about.embedded || record.about.timeout.is_none() {
            return;
        }
        // It asks for the time that it needs.
        let manager =
            self.manager.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|manager| manager.is_heard);
        let is_extended = manager == Some(true);
        let (fit, wrong) = match stop_timeout(&record.about) {
            Ok(stop) => (stop_timeout::fit(need(&record), stop.as_ref()), None),
            Err(wrong) => (Fit::Unknown(wrong.clone()), Some(wrong)),
        };
        let fit = match fit {
            Fit::Unknown(_) if is_extended => Fit::Fits("asked of the service manager when it stops".to_owned()),
            fit => fit,
        };
        self.note("stop timeout", wrong.or_else(|| fit.problem().map(str::to_owned)));
        self.known(|inner| {
            inner.record.time = Some(fit);
            inner.withhold();
        });
    }

    /// The only way to what is known. Nothing that waits, and nothing that comes here again, may be called inside.
    fn known<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    /// Ready only if it can take a job; and only if it is safe, for whoever wants that.
    fn withhold(&mut self) {
        let time = self.record.time.as_ref().and_then(|time| time.doubt().map(str::to_owned));
        let doubt = self.doubt.clone().or(time);
        self.record.withheld = self.takes_no_job.clone().or_else(|| doubt.filter(|_| self.requires_path));
    }

    /// What the hooks took at earlier stops in this directory.
    fn remember_hooks(&mut self, seconds: impl IntoIterator<Item = f64>) {
        seconds.into_iter().for_each(|seconds| self.hooks.remember(seconds));
        self.record.hooks = self.hooks.known(Instant::now(), false);
    }
}

fn need(record: &Record) -> Need {
    Need { timeout: record.about.timeout, hooks: record.slow_hooks() }
}

/// The stop timeout, as far as it can be known without asking anybody.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn stop_timeout(about: &About) -> Result<Option<StopTimeout>, String> {
    let set = about.stop_timeout.map(|seconds| StopTimeout { seconds, source: Source::Setting });
    set.map_or_else(platform::stop_timeout_of_environment, |set| Ok(Some(set)))
}

/// Clears what dead processes left in a directory, before the application boots. A directory that is not there
/// needs no clearing; one that does not answer keeps the boot only for a moment.
///
/// # Errors
/// It cannot be read or cleared, or does not answer.
pub fn clear(path: &Path) -> Result<(), Error> {
    let directory = Directory::new(path, None);
    in_time(move || clear_now(&directory)).unwrap_or_else(|| Err(Error::Late(path.to_owned())))
}

/// What hooks took at earlier stops in a directory that was cleared before the process began there: the records that knew
/// it are gone.
static CLEARED: Mutex<Option<(PathBuf, f64)>> = Mutex::new(None);

fn cleared_hooks(directory: &Directory) -> Option<f64> {
    let cleared = CLEARED.lock().unwrap_or_else(PoisonError::into_inner);
    cleared.as_ref().filter(|(path, _)| path == directory.path()).map(|(_, seconds)| *seconds)
}

fn clear_now(directory: &Directory) -> Result<(), Error> {
    match directory.read() {
        Ok(_) => {
            let open = directory.open()?;
            let mut hooks = Hooks::default();
            open.hooks().into_iter().for_each(|seconds| hooks.remember(seconds));
            *CLEARED.lock().unwrap_or_else(PoisonError::into_inner) =
                hooks.known(Instant::now(), false).map(|seconds| (directory.path().to_owned(), seconds));
            sweep(&open)
        }
        Err(Error::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn sweep(open: &OpenDirectory<'_>) -> Result<(), Error> {
    let _lock = open.lock();
    open.sweep()
}
