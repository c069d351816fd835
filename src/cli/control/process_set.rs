//! The processes that a command is about: found once, signalled through a pidfd, and read again while it waits.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::dup;

use super::error::Error;
use super::outcome::Outcome;
use super::waiter::Waiter;
use crate::cli::target::Target;
use crate::model::duration;
use crate::model::goal::{Goal, Standing};
use crate::model::job::Job;
use crate::model::probe::{Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::recorder;
use crate::model::signal_path::Handling;
use crate::model::state::State;
use crate::store;
use crate::store::directory::Processes;
use crate::store::lookup::{self, ObservedProcess, Registered};
use crate::store::record::Jobs;
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;
use crate::sys::watch::{Place, SLOW, Woken};

/// How many reasons are shown at once.
pub const SHOWN_REASONS: usize = 5;

#[derive(Debug)]
pub struct ProcessSet {
    pub members: Vec<Member>,
    pub waiter: Waiter,
    refreshed: Instant,
}

/// A process of the set, and what wakes the wait for it.
#[derive(Debug)]
pub struct Member {
    pub pidfd: PidFd,
    process: ObservedProcess,
    snapshot: Snapshot,
    /// Its directory, to read its last record when the path to it is gone with the process.
    processes: Option<Processes>,
    place: Option<Place>,
    pub has_ended: bool,
    pub was_killed: bool,
}

/// What a command has found.
pub enum Collected {
    Living(ProcessSet),
    /// None that lives.
    Ended(Vec<ObservedProcess>),
}

/// What is lost with a process that was killed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Jobs,
    /// They wait in its flight recorder.
    Recorded,
    /// It had none at its last heartbeat, or has no record.
    Perhaps,
    Nothing,
}

impl ProcessSet {
    pub fn collect(target: &Target, timeout: Option<Duration>) -> Result<Collected, Error> {
        let mut others = Vec::new();
        let living = match target {
            Target::Directory(directory) => {
                let registered = lookup::registered(directory)?;
                let Registered { living, others: rest } = registered;
                others = rest;
                living
            }
            Target::Pid(pid, directory) => target.find().or_else(|error| {
                others.push(lookup::ended(*pid, directory).ok_or(error)?);
                Ok::<_, Error>(Vec::new())
            })?,
            Target::All => target.find()?,
        };
        let unreadable = |process: &&ObservedProcess| process.record.is_err() && process.presence == Presence::Here;
        if let Some(process) = others.iter().find(unreadable) {
            let why = process.facts().answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
            return Err(Error::Unreadable { pid: process.pid, why });
        }
        raise_descriptor_limit();
        let waiter = Waiter::start(timeout)?;
        let mut members = Vec::new();
        for process in living {
            // One that has ended since it was found is left out.
            let pidfd = process.open().map_err(|errno| Error::not_opened(process.pid, errno))?;
            if let (Some(pidfd), Some(snapshot)) = (pidfd, process.snapshot.clone()) {
                let processes = process.record.as_ref().ok().and_then(|_| process.directory.processes().ok());
                let (place, has_ended, was_killed) = (None, false, false);
                members.push(Member { pidfd, process, snapshot, processes, place, has_ended, was_killed });
            }
        }
        if members.is_empty() {
            return Ok(Collected::Ended(others));
        }
        require_descriptors()?;
        let mut set = Self { members, waiter, refreshed: Instant::now() };
        set.refresh_all();
        Ok(Collected::Living(set))
    }

    /// Without a record a goal may never be seen.
    pub fn require_records(&self, is_needed: bool, command: &str) -> Result<(), Error> {
        let missing =
            self.members.iter().find_map(|member| Some((member.pidfd.pid, member.process.record.as_ref().err()?)));
        match missing {
            Some((pid, why)) if is_needed => {
                Err(Error::NoRecord { command: command.to_owned(), pid, why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    /// SIGTSTP suspends a process that does not handle it: one that has not set its traps yet, or a program that embeds
    /// Sidekiq.
    pub fn refuse_to_suspend(&self) -> Result<(), Error> {
        let would_be_suspended = |member: &&Member| {
            !member.has_ended
                && Snapshot::of(member.pidfd.pid)
                    .is_some_and(|snapshot| snapshot.handling(Signal::SIGTSTP) == Handling::Default)
        };
        match self.members.iter().find(would_be_suspended) {
            None => Ok(()),
            Some(member) if member.is_embedded() => Err(Error::WouldSuspendProgram(member.pidfd.pid)),
            Some(member) => Err(Error::WouldSuspend(member.pidfd.pid)),
        }
    }

    /// Whether a program stops its embedded Sidekiq on SIGTERM cannot be seen from here: Ruby itself handles it by ending
    /// the program, and running jobs are lost.
    pub fn refuse_embedded(&self) -> Result<(), Error> {
        self.members
            .iter()
            .find(|member| member.is_embedded())
            .map_or(Ok(()), |member| Err(Error::Embedded(member.pidfd.pid)))
    }

    /// Prints, before they are stopped, what else ends with them.
    pub fn warn_of_companions(&mut self) {
        let stopped = self.pids(|_| true);
        let living = self.pids(|member| !member.has_ended);
        for warning in living.into_iter().filter_map(|pid| Snapshot::companions(pid, &stopped)) {
            self.waiter.progress.say(&warning);
        }
    }

    /// Requests of every living process that it stops once it has drained. Permission to signal is checked for all before.
    pub fn request_stop(&self) -> Result<(), Error> {
        self.require_permission()?;
        for member in self.members.iter().filter(|member| !member.has_ended) {
            let (Ok(record), Some(processes)) = (&member.process.record, &member.processes) else { continue };
            let not_requested = |errno| {
                let path = member.process.directory.path().to_owned();
                Error::NotRequested(member.pidfd.pid, store::error::Error::new(&path, errno)).nothing_sent()
            };
            processes.request_stop(&record.identity).map_err(not_requested)?;
        }
        Ok(())
    }

    fn require_permission(&self) -> Result<(), Error> {
        let refused = |member: &&Member| member.pidfd.signal(0) == Err(Errno::EPERM);
        self.members.iter().find(refused).map_or(Ok(()), |member| Err(member.not_allowed().nothing_sent()))
    }

    pub fn quiet(&mut self) -> Result<Vec<i32>, Error> {
        self.send(Signal::SIGTSTP, |facts| facts.state < State::Quiet)
    }

    /// Sends `signal` to every living process that `needs` it, and returns the pids signalled. Permission is checked for all
    /// before the first signal is sent.
    pub fn send(&mut self, signal: Signal, needs: impl Fn(&Facts) -> bool) -> Result<Vec<i32>, Error> {
        self.require_permission()?;
        let (mut sent, mut failures) = (Vec::new(), Vec::new());
        for member in self.members.iter_mut().filter(|member| !member.has_ended && needs(&member.facts())) {
            match member.pidfd.signal(signal as i32) {
                Ok(()) => sent.push(member.pidfd.pid),
                Err(Errno::ESRCH) => member.has_ended = true,
                Err(Errno::EPERM) => failures.push(member.not_allowed().to_string()),
                Err(errno) => failures.push(format!("process {}: {}", member.pidfd.pid, errno.desc())),
            }
        }
        if failures.is_empty() { Ok(sent) } else { Err(Error::PartlySent { failures, signal, sent }) }
    }

    /// Waits until every process has reached the goal or never will. `Some`: the wait has ended before that.
    pub fn wait(&mut self, goal: Goal, mut kill_after: Option<Duration>) -> Result<Option<Outcome>, Error> {
        let started = Instant::now();
        self.refresh_all();
        loop {
            let facts: Vec<Facts> = self.members.iter().map(Member::facts).collect();
            if !facts.iter().any(|facts| matches!(goal.standing(facts), Standing::Waiting(_))) {
                return Ok(None);
            }
            if self.waiter.is_over() {
                return Ok(Some(Outcome::TimedOut));
            }
            if kill_after.is_some_and(|after| started.elapsed() >= after) {
                self.kill(kill_after.take().unwrap_or_default());
            }
            let notes = self.waiting(goal).take(SHOWN_REASONS).collect();
            self.waiter.show(goal, &facts, notes);
            let next = kill_after.map(|after| after.saturating_sub(started.elapsed()));
            let (living, pidfds): (Vec<usize>, Vec<&PidFd>) = self
                .members
                .iter()
                .enumerate()
                .filter(|(_, member)| !member.has_ended)
                .map(|(index, member)| (index, &member.pidfd))
                .unzip();
            let woken = self.waiter.sleep(&pidfds, next)?;
            let ended: Vec<usize> = woken.ended.iter().filter_map(|index| living.get(*index).copied()).collect();
            self.refresh(&woken, &ended);
            if let Some(signal) = woken.signal {
                return Ok(Some(Outcome::Interrupted(signal)));
            }
        }
    }

    /// Why each that has not reached the goal yet has not, and how to continue one that is suspended.
    pub fn waiting(&self, goal: Goal) -> impl Iterator<Item = String> {
        self.members.iter().filter_map(move |member| match goal.standing(&member.facts()) {
            Standing::Waiting(reason) => Some(match Snapshot::of(member.pidfd.pid) {
                Some(Snapshot { state: 'T', pid, .. }) => format!(
                    "{reason}; it is suspended (SIGSTOP or Ctrl-Z) and handles no signal, resume it with kill -CONT {pid}"
                ),
                _ => reason,
            }),
            Standing::Reached | Standing::Failed(_) => None,
        })
    }

    /// Reads again what has changed, and now and then everything.
    fn refresh(&mut self, woken: &Woken, ended: &[usize]) {
        if woken.everything || self.refreshed.elapsed() >= SLOW {
            self.refresh_all();
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            let own_pid = member.snapshot.own_pid();
            let is_changed = woken.changed.iter().any(|(place, pid)| Some(*place) == member.place && *pid == own_pid);
            member.has_ended |= ended.contains(&index);
            if is_changed || ended.contains(&index) {
                member.refresh();
            }
        }
    }

    fn refresh_all(&mut self) {
        self.refreshed = Instant::now();
        let mut places: Vec<(PathBuf, Option<Place>)> = Vec::new();
        for member in &mut self.members {
            let path = member.process.directory.path();
            // Before it is read, so that a later change wakes the wait.
            let place = match places.iter().find(|(known, _)| known == path) {
                Some((_, place)) => *place,
                None => {
                    let place = self.waiter.watch.directory(path);
                    places.push((path.to_owned(), place));
                    place
                }
            };
            member.place = member.place.filter(|_| member.has_ended).or(place);
            if !member.has_ended {
                member.refresh();
            }
        }
    }

    fn kill(&mut self, after: Duration) {
        for member in self.members.iter_mut().filter(|member| !member.has_ended) {
            if member.pidfd.signal(Signal::SIGKILL as i32).is_ok() {
                member.was_killed = true;
                let (pid, after) = (member.pidfd.pid, duration::format(after.as_secs_f64()));
                self.waiter.progress.say(&format!("process {pid} has not ended within {after} of SIGTERM: killed"));
            }
        }
    }

    pub fn has_lost_jobs(&self) -> bool {
        self.members.iter().any(|member| member.lost() > 0)
    }

    pub fn pids(&self, which: impl Fn(&Member) -> bool) -> Vec<i32> {
        self.members.iter().filter(|member| which(member)).map(|member| member.pidfd.pid).collect()
    }

    pub fn observed(&self) -> Vec<ObservedProcess> {
        let observed = |member: &Member| ObservedProcess { presence: member.presence(), ..member.process.clone() };
        self.members.iter().map(observed).collect()
    }
}

impl Member {
    pub fn facts(&self) -> Facts {
        self.process.facts_with(self.presence())
    }

    pub fn loss(&self) -> Loss {
        match (&self.process.record, self.left_behind()) {
            (Ok(record), _) if record.drained => Loss::Nothing,
            (_, Some(jobs)) if jobs.is_empty() => Loss::Nothing,
            (_, Some(_)) => Loss::Recorded,
            (Ok(record), None) if record.busy > 0 => Loss::Jobs,
            _ => Loss::Perhaps,
        }
    }

    /// What it has left in its flight recorder to be put back; `None`: it has none, or its fetch keeps copies.
    pub fn left_behind(&self) -> Option<Vec<Job>> {
        let identity = &self.process.record.as_ref().ok()?.identity;
        let left = self.process.directory.left_behind().ok()?.into_iter().find(|left| left.identity == *identity)?;
        let jobs = left.contents.jobs;
        (!jobs.iter().any(recorder::Job::is_kept)).then(|| jobs.iter().map(recorder::Job::named).collect())
    }

    /// How many jobs were interrupted at Sidekiq's shutdown timeout.
    pub fn interrupted(&self) -> u32 {
        self.process.record.as_ref().map_or(0, |record| record.interrupted_jobs)
    }

    /// Its jobs, by name.
    pub fn jobs(&self) -> Jobs {
        self.process.record.as_ref().map_or_else(|_| Jobs::default(), |record| record.jobs.clone())
    }

    /// How many jobs Redis has not taken back.
    pub fn lost(&self) -> u32 {
        self.process.record.as_ref().map_or(0, |record| u32::try_from(record.lost_jobs.len()).unwrap_or(u32::MAX))
    }

    fn presence(&self) -> Presence {
        let has_stopped = self.process.record.as_ref().is_ok_and(|record| record.state == State::Stopped);
        if self.has_ended || self.is_embedded() && has_stopped { Presence::Gone } else { Presence::Here }
    }

    fn is_embedded(&self) -> bool {
        self.process.record.as_ref().is_ok_and(|record| record.about.embedded)
    }

    fn not_allowed(&self) -> Error {
        Error::NotAllowed { pid: self.pidfd.pid, uid: self.snapshot.uid }
    }

    /// Reads its record again. One that cannot be read, or is another's by now, changes nothing.
    fn refresh(&mut self) {
        let pid = self.snapshot.own_pid();
        let by_path = self.process.directory.entries_of(pid).unwrap_or_default().into_iter();
        let kept = self.processes.iter().flat_map(|processes| processes.entries_of(pid));
        let mut records = by_path.chain(kept).filter_map(|entry| entry.record.ok());
        if let Some(record) = records.find(|record| lookup::is_of(record, &self.snapshot)) {
            self.process.record = Ok(record);
        }
    }
}

/// Without two descriptors a wait would see nothing change.
fn require_descriptors() -> Result<(), Error> {
    let descriptors: nix::Result<Vec<OwnedFd>> = (0..2).map(|_| dup(io::stderr())).collect();
    descriptors.map(drop).map_err(Error::NoDescriptors)
}

/// A thousand processes need a thousand descriptors and more.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
