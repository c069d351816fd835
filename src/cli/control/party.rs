//! The processes that a command is about, what they are told, and the wait for them.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{dup, geteuid};
use serde::Serialize;

use super::{Quiet, Stop, Wait};
use crate::cli::progress::{Progress, Step};
use crate::cli::target::Who;
use crate::model::goal::{Goal, Standing, jobs};
use crate::model::probe::{self, Facts, MAX_BEAT_AGE, Presence, Probe};
use crate::model::signal_path::Handling;
use crate::model::state::State;
use crate::model::stop_timeout::stretch;
use crate::model::text::{as_root, one_line};
use crate::store::directory::{Directory, Processes};
use crate::store::error::Error;
use crate::store::lookup::Sight;
use crate::store::lookup::{self, Found, Registered};
use crate::store::report::{self, Process};
use crate::sys::pidfd::PidFd;
use crate::sys::procfs::Snapshot;
use crate::sys::watch::{Place, SLOW, Watch, Woken};

/// How many reasons are told at once.
const SHOWN: usize = 5;
/// What timeout(1) ends with.
const TIMED_OUT: u8 = 124;

/// How a command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Reached,
    NotReached,
    TimedOut,
    Interrupted(Signal),
}

/// Its end in one sentence.
type End = (Outcome, String);

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NotReached => "not-reached",
            Self::TimedOut => "timed-out",
            Self::Interrupted(_) => "interrupted",
        }
    }

    fn exit_code(self) -> u8 {
        match self {
            Self::Reached => 0,
            Self::NotReached => 1,
            Self::TimedOut => TIMED_OUT,
            Self::Interrupted(signal) => 128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or_default()),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    outcome: &'static str,
    reason: &'a str,
    processes: Vec<Process<'a>>,
}

/// Prints how it ended, and gives back the code that says the same.
fn finish((outcome, line): &End, sights: &[Sight], json: bool) -> ExitCode {
    let out = &mut io::stdout().lock();
    // The exit code is the answer, whether or not anybody can read the line.
    let _ = if json {
        let processes = sights.iter().map(Process::from).collect();
        let report = Report { schema: report::SCHEMA, outcome: outcome.name(), reason: line, processes };
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        writeln!(out, "{}", one_line(line))
    };
    ExitCode::from(outcome.exit_code())
}

pub(super) fn quiet(Quiet { who, wait, timeout, json }: Quiet) -> ExitCode {
    let goal = if wait { Goal::Drained } else { Goal::Quiet };
    let run = |party: &mut Party| {
        party.refuse_unknown(wait, "quiet --wait").map_err(nobody_told)?;
        party.refuse_deaf().map_err(nobody_told)?;
        let told = party.tell_quiet()?;
        if !wait {
            return Ok((Outcome::Reached, party.told_or_quiet_already(&told)));
        }
        Ok(match party.wait(goal, None)? {
            Some(outcome) => (outcome, party.stays_quiet(outcome)),
            None => party.verdict(goal),
        })
    };
    with_party(&who.into(), goal, timeout, json, run)
}

pub(super) fn stop(Stop { who, drain_first, timeout, kill_after, json }: Stop) -> ExitCode {
    let run = |party: &mut Party| {
        party.refuse_unknown(drain_first, "stop --drain-first").map_err(nobody_told)?;
        party.refuse_embedded().map_err(nobody_told)?;
        let mut drained = (Outcome::Reached, String::new());
        if drain_first {
            party.refuse_deaf().map_err(nobody_told)?;
            party.tell_quiet()?;
            if let Some(outcome) = party.wait(Goal::Drained, None)? {
                return Ok((outcome, party.stays_quiet(outcome)));
            }
            drained = party.verdict(Goal::Drained);
        }
        party.warn_of_company();
        party.tell(Signal::SIGTERM, |_| true)?;
        let waited = party.wait(Goal::Stopped, kill_after)?;
        Ok(match (waited, party.killed()) {
            (Some(outcome), _) => (outcome, party.stays_told(outcome)),
            (None, Some(killed)) => (Outcome::NotReached, format!("{killed}{}", party.cut_off())),
            (None, None) => {
                let (outcome, line) = party.verdict(Goal::Stopped);
                let line = format!("{line}{}", party.cut_off());
                match drained {
                    (Outcome::NotReached, why) => (Outcome::NotReached, format!("{why}; {line}")),
                    _ if party.have_lost_jobs() => (Outcome::NotReached, line),
                    _ => (outcome, line),
                }
            }
        })
    };
    with_party(&who.into(), Goal::Stopped, timeout, json, run)
}

pub(super) fn wait(Wait { goal, who, timeout, json }: Wait) -> ExitCode {
    let goal = goal.into();
    match who.into() {
        Who::Directory(directory) if goal == Goal::Ready => wait_until_ready(&directory, timeout, json),
        who => with_party(&who, goal, timeout, json, |party| {
            party.refuse_unknown(matches!(goal, Goal::Ready | Goal::Drained), &format!("wait {goal}"))?;
            if goal == Goal::Quiet {
                party.refuse_unknown(true, "wait quiet")?;
            }
            Ok(match party.wait(goal, None)? {
                Some(outcome) => (outcome, format!("{}: {}", party.cut_short(outcome), party.reasons(goal))),
                None => party.verdict(goal),
            })
        }),
    }
}

/// Begins with those that are there. A failure is one sentence.
fn with_party(
    who: &Who,
    goal: Goal,
    timeout: Option<Duration>,
    json: bool,
    run: impl FnOnce(&mut Party) -> Result<End, String>,
) -> ExitCode {
    let mut party = match Party::gather(who, goal, timeout) {
        Ok(Gathered::Living(party)) => party,
        Ok(Gathered::Ended(end, sights)) => return finish(&end, &sights, json),
        Err(reason) => return finish(&(Outcome::NotReached, reason), &[], json),
    };
    let end = run(&mut party).unwrap_or_else(|reason| (Outcome::NotReached, reason));
    party.session.progress = Progress::default();
    finish(&end, &party.sights(), json)
}

/// What all waiting has: what wakes it, what is shown meanwhile, and when it is over.
#[derive(Debug)]
struct Session {
    watch: Watch,
    progress: Progress,
    began: Instant,
    timeout: Option<Duration>,
}

impl Session {
    fn begin(timeout: Option<Duration>) -> Result<Self, String> {
        let watch = Watch::open().map_err(in_words)?;
        Ok(Self { watch, progress: Progress::default(), began: Instant::now(), timeout })
    }

    /// The time that is left; `None`: as long as it takes.
    fn left(&self) -> Option<Duration> {
        self.timeout.map(|timeout| timeout.saturating_sub(self.began.elapsed()))
    }

    fn sleep(&self, handles: &[&PidFd], next: Option<Duration>) -> Result<Woken, String> {
        let times = [self.left(), self.progress.next(), next].into_iter().flatten();
        let timeout = times.fold(SLOW, Duration::min);
        self.watch.wait(handles, timeout).map_err(|errno| errno.desc().to_owned())
    }

    fn show(&mut self, goal: Goal, facts: &[Facts], notes: Vec<String>) {
        let done = facts.iter().filter(|facts| goal.standing(facts) == Standing::Reached).count();
        // Of nobody there is no more to say than why.
        let nobody = notes.first().filter(|_| facts.is_empty()).cloned();
        self.progress.show(&Step {
            done,
            total: facts.len(),
            message: nobody.unwrap_or_else(|| goal.progress(facts)),
            notes,
            timeout: self.timeout.map(|timeout| timeout.as_secs_f64()),
            begun: self.began.elapsed().as_secs_f64(),
        });
    }
}

/// A process of the party.
#[derive(Debug)]
struct Member {
    handle: PidFd,
    found: Found,
    /// Its directory, to read what it has said last when the way there is gone with the process.
    processes: Option<Processes>,
    place: Option<Place>,
    has_ended: bool,
    was_killed: bool,
}

#[derive(Debug)]
struct Party {
    members: Vec<Member>,
    session: Session,
    refreshed: Instant,
}

/// Whom a command has found.
enum Gathered {
    Living(Party),
    /// Nobody who lives; what follows from that.
    Ended(End, Vec<Sight>),
}

impl Party {
    fn gather(who: &Who, goal: Goal, timeout: Option<Duration>) -> Result<Gathered, String> {
        let mut others = Vec::new();
        let living = match who {
            Who::Directory(directory) => {
                let registered = lookup::registered(directory).map_err(|error| error.to_string())?;
                let Registered { living, others: rest } = registered;
                others = rest.into_iter().map(|entry| Sight::of_entry(entry, directory)).collect();
                living
            }
            Who::Pid(pid, directory) => who.find().or_else(|reason| {
                let entry = lookup::ended(*pid, directory).ok_or(reason)?;
                others.push(Sight::of_entry(entry, directory));
                Ok::<_, String>(Vec::new())
            })?,
            Who::All => who.find()?,
        };
        let unknown = |sight: &&Sight| sight.record.is_err() && sight.facts.presence == Presence::Here;
        if let Some(sight) = others.iter().find(unknown) {
            let why = sight.facts.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
            return Err(format!("{why}; --pid {} tells that process all the same", sight.facts.pid));
        }
        allow_many();
        let session = Session::begin(timeout)?;
        let mut members = Vec::new();
        for found in living {
            // One that has ended since it was found is not there.
            if let Some(handle) = found.open().map_err(|errno| not_opened(found.snapshot.pid, errno))? {
                let processes = found.record.as_ref().and_then(|_| found.directory.processes().ok());
                members.push(Member { handle, found, processes, place: None, has_ended: false, was_killed: false });
            }
        }
        if members.is_empty() {
            return Ok(Gathered::Ended(nobody(who, goal, &others), others));
        }
        ask_for_room()?;
        let mut party = Self { members, session, refreshed: Instant::now() };
        party.look_at_all();
        Ok(Gathered::Living(party))
    }

    /// Whoever has no record does not tell what is asked for.
    fn refuse_unknown(&self, is_needed: bool, what: &str) -> Result<(), String> {
        match self.members.iter().find(|member| member.found.record.is_none()) {
            Some(member) if is_needed => {
                Err(format!("{what} needs the record of process {}: {}", member.handle.pid, member.found.why_unknown()))
            }
            _ => Ok(()),
        }
    }

    /// A TSTP would freeze a process that does not handle it: one that has not set its traps yet, or a program that Sidekiq
    /// is embedded in.
    fn refuse_deaf(&self) -> Result<(), String> {
        let is_deaf = |member: &&Member| {
            let pid = member.handle.pid;
            !member.has_ended
                && Snapshot::of(pid).is_some_and(|snapshot| snapshot.handling(Signal::SIGTSTP) == Handling::Default)
        };
        let Some(member) = self.members.iter().find(is_deaf) else { return Ok(()) };
        let pid = member.handle.pid;
        let why = if member.is_embedded() {
            "it is embedded in a program whose signals are its own; quiet it there"
        } else {
            "it has not come so far in its boot; wait until it is ready"
        };
        Err(format!("process {pid} would be frozen by a TSTP, for {why}"))
    }

    /// A TERM is for the whole program that Sidekiq is embedded in. Whether that stops Sidekiq first cannot be seen from
    /// here: Ruby itself handles a TERM, by ending the program, and the jobs in hand are lost.
    fn refuse_embedded(&self) -> Result<(), String> {
        let Some(member) = self.members.iter().find(|member| member.is_embedded()) else { return Ok(()) };
        let pid = member.handle.pid;
        Err(format!(
            "process {pid} is a program that Sidekiq is embedded in, and a TERM might end it without its jobs; stop it \
             there, or send kill -TERM {pid} if it stops Sidekiq then"
        ))
    }

    /// Says, before they are stopped, who else ends by it.
    fn warn_of_company(&mut self) {
        let all = Snapshot::living();
        let told = self.pids(|_| true);
        let pids = self.members.iter().filter(|member| !member.has_ended).map(|member| member.handle.pid);
        let warnings = pids.filter_map(|pid| Snapshot::company(pid, &all, &told));
        for warning in warnings.collect::<Vec<_>>() {
            self.session.progress.say(&warning);
        }
    }

    fn tell_quiet(&mut self) -> Result<Vec<i32>, String> {
        self.tell(Signal::SIGTSTP, |facts| facts.state < State::Quiet)
    }

    /// Sends a signal to all for whom it is news: those. Whether that is allowed is asked of each before the first is told.
    fn tell(&mut self, signal: Signal, is_news: impl Fn(&Facts) -> bool) -> Result<Vec<i32>, String> {
        let refused = |member: &&Member| member.handle.signal(0) == Err(Errno::EPERM);
        if let Some(member) = self.members.iter().find(refused) {
            return Err(nobody_told(not_allowed(&member.found)));
        }
        let (mut told, mut failures) = (Vec::new(), Vec::new());
        for member in self.members.iter_mut().filter(|member| !member.has_ended && is_news(&member.facts())) {
            match member.handle.signal(signal as i32) {
                Ok(()) => told.push(member.handle.pid),
                Err(Errno::ESRCH) => member.has_ended = true,
                Err(Errno::EPERM) => failures.push(not_allowed(&member.found)),
                Err(errno) => failures.push(format!("process {}: {}", member.handle.pid, errno.desc())),
            }
        }
        if failures.is_empty() {
            return Ok(told);
        }
        let told = if told.is_empty() { "nobody".to_owned() } else { names(&told) };
        Err(format!("{}; {signal} was sent to: {told}", failures.join("; ")))
    }

    /// Waits until all have come there or never will. `Some`: something else came before.
    fn wait(&mut self, goal: Goal, mut kill_after: Option<Duration>) -> Result<Option<Outcome>, String> {
        let told = Instant::now();
        self.look_at_all();
        loop {
            let facts: Vec<Facts> = self.members.iter().map(Member::facts).collect();
            if !facts.iter().any(|facts| matches!(goal.standing(facts), Standing::Waiting(_))) {
                return Ok(None);
            }
            if self.session.left() == Some(Duration::ZERO) {
                return Ok(Some(Outcome::TimedOut));
            }
            if kill_after.is_some_and(|after| told.elapsed() >= after) {
                self.kill(kill_after.take().unwrap_or_default());
            }
            let notes = self.waiting(goal, SHOWN);
            self.session.show(goal, &facts, notes);
            let next = kill_after.map(|after| after.saturating_sub(told.elapsed()));
            let living: Vec<usize> = (0..self.members.len()).filter(|index| !self.has_ended(*index)).collect();
            let handles: Vec<&PidFd> =
                living.iter().filter_map(|index| self.members.get(*index)).map(|member| &member.handle).collect();
            let woken = self.session.sleep(&handles, next)?;
            let ended: Vec<usize> = woken.ended.iter().filter_map(|index| living.get(*index).copied()).collect();
            self.look(&woken, &ended);
            if let Some(signal) = woken.signal {
                return Ok(Some(Outcome::Interrupted(signal)));
            }
        }
    }

    fn has_ended(&self, index: usize) -> bool {
        self.members.get(index).is_none_or(|member| member.has_ended)
    }

    /// Reads again what has changed, and now and then everything.
    fn look(&mut self, woken: &Woken, ended: &[usize]) {
        if woken.everything || self.refreshed.elapsed() >= SLOW {
            self.look_at_all();
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            let own_pid = member.found.snapshot.own_pid();
            let is_changed = woken.changed.iter().any(|(place, pid)| Some(*place) == member.place && *pid == own_pid);
            member.has_ended |= ended.contains(&index);
            if is_changed || ended.contains(&index) {
                member.read();
            }
        }
    }

    fn look_at_all(&mut self) {
        self.refreshed = Instant::now();
        let mut places: Vec<(PathBuf, Option<Place>)> = Vec::new();
        for member in &mut self.members {
            let path = member.found.directory.path();
            // Before it is read: what changes later is told.
            let place = match places.iter().find(|(known, _)| known == path) {
                Some((_, place)) => *place,
                None => {
                    let place = self.session.watch.directory(path);
                    places.push((path.to_owned(), place));
                    place
                }
            };
            member.place = member.place.filter(|_| member.has_ended).or(place);
            if !member.has_ended {
                member.read();
            }
        }
    }

    fn kill(&mut self, after: Duration) {
        for member in self.members.iter_mut().filter(|member| !member.has_ended) {
            if member.handle.signal(Signal::SIGKILL as i32).is_ok() {
                member.was_killed = true;
                let (pid, after) = (member.handle.pid, stretch(after.as_secs_f64()));
                self.session.progress.say(&format!("process {pid} has not ended within {after} of SIGTERM: killed"));
            }
        }
    }

    /// Who was killed, and what that has cost; `None` if nobody was.
    fn killed(&self) -> Option<String> {
        let losses = [Loss::Jobs, Loss::Perhaps, Loss::Nothing].into_iter().filter_map(|loss| {
            let pids = self.pids(|member| member.was_killed && member.loss() == loss);
            let it = if pids.len() == 1 { "it" } else { "they" };
            let lost = match loss {
                Loss::Jobs => format!("the jobs {it} had are lost"),
                Loss::Perhaps => format!("any jobs {it} had are lost"),
                Loss::Nothing => format!("{it} had no jobs"),
            };
            (!pids.is_empty()).then(|| format!("{} killed; {lost}", names(&pids)))
        });
        let losses: Vec<String> = losses.collect();
        (!losses.is_empty()).then(|| losses.join("; "))
    }

    /// Who had to cut jobs off to end in time. Sidekiq pushes them back, so they begin again elsewhere, unless Redis does
    /// not take them.
    fn cut_off(&self) -> String {
        let said = self.members.iter().map(|member| {
            let (pid, lost) = (member.handle.pid, member.lost());
            let cut_off = member.cut_off().map(|count| {
                let pushed = match (lost, count) {
                    (Some(_), _) => "",
                    (None, 1) => ", and pushed it back",
                    (None, _) => ", and pushed them back",
                };
                format!("; process {pid} cut off {} at Sidekiq's timeout{pushed}", jobs(count).unwrap_or_default())
            });
            let lost = lost.and_then(jobs).map(|jobs| {
                format!(
                    "; process {pid} lost {jobs}, which Redis did not take back: sidekiq-lifecycle status says which"
                )
            });
            [cut_off, lost].into_iter().flatten().collect::<String>()
        });
        said.collect()
    }

    fn have_lost_jobs(&self) -> bool {
        self.members.iter().any(|member| member.lost().is_some())
    }

    fn names(&self) -> String {
        names(&self.pids(|_| true))
    }

    /// Of those that live still: "process 7 told to stop, and will".
    fn living_told(&self, what: [&str; 2]) -> String {
        let living = self.pids(|member| !member.has_ended);
        let [one, many] = what;
        let what = if living.len() == 1 { one } else { many };
        format!("{} told to {what}", names(&living))
    }

    /// "told to be quiet: process 7; quiet already: process 8".
    fn told_or_quiet_already(&self, told: &[i32]) -> String {
        let group_of = |member: &Member| match member.facts() {
            _ if told.contains(&member.handle.pid) => "told to be quiet",
            Facts { presence: Presence::Gone, .. } => "ended already",
            Facts { state: State::Quiet, .. } => "quiet already",
            _ => "stopping already",
        };
        let groups = ["told to be quiet", "quiet already", "stopping already", "ended already"];
        let said = groups.into_iter().filter_map(|group| {
            let pids = self.pids(|member| group_of(member) == group);
            (!pids.is_empty()).then(|| format!("{group}: {}", names(&pids)))
        });
        said.collect::<Vec<String>>().join("; ")
    }

    fn pids(&self, which: impl Fn(&Member) -> bool) -> Vec<i32> {
        self.members.iter().filter(|member| which(member)).map(|member| member.handle.pid).collect()
    }

    fn sights(&self) -> Vec<Sight> {
        self.members.iter().map(Member::sight).collect()
    }

    /// Of those that have not come there yet, why; where one is frozen, that.
    fn waiting(&self, goal: Goal, most: usize) -> Vec<String> {
        let reasons = self.members.iter().filter_map(|member| match goal.standing(&member.facts()) {
            Standing::Waiting(reason) => Some(match Snapshot::of(member.handle.pid) {
                Some(Snapshot { state: 'T', pid, .. }) => {
                    format!("{reason}; it is frozen by a SIGSTOP or Ctrl-Z, and hears nothing: kill -CONT {pid}")
                }
                _ => reason,
            }),
            Standing::Reached | Standing::Failed(_) => None,
        });
        reasons.take(most).collect()
    }

    fn reasons(&self, goal: Goal) -> String {
        let standings = self.members.iter().map(|member| goal.standing(&member.facts()));
        let failed: Vec<String> = standings
            .filter_map(|standing| match standing {
                Standing::Failed(reason) => Some(reason),
                _ => None,
            })
            .collect();
        let reasons: Vec<String> = failed.into_iter().chain(self.waiting(goal, usize::MAX)).collect();
        let more = reasons.len().saturating_sub(SHOWN);
        let shown: Vec<String> = reasons.into_iter().take(SHOWN).collect();
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        format!("{}{more}", shown.join("; "))
    }

    /// Once nobody is waited for any more.
    fn verdict(&self, goal: Goal) -> End {
        let reasons = self.reasons(goal);
        if reasons.is_empty() {
            let time = stretch(self.session.began.elapsed().as_secs_f64());
            return (Outcome::Reached, format!("{goal} after {time}: {}", self.names()));
        }
        (Outcome::NotReached, format!("not {goal}: {reasons}"))
    }

    fn cut_short(&self, outcome: Outcome) -> String {
        match (outcome, self.session.timeout) {
            (Outcome::TimedOut, Some(timeout)) => format!("timed out after {}", stretch(timeout.as_secs_f64())),
            _ => format!("interrupted after {}", stretch(self.session.began.elapsed().as_secs_f64())),
        }
    }

    fn stays_quiet(&self, outcome: Outcome) -> String {
        format!(
            "{}, not drained: {}; {}",
            self.cut_short(outcome),
            self.reasons(Goal::Drained),
            self.living_told([
                "be quiet, and stays so: sidekiq-lifecycle wait drained waits on, sidekiq-lifecycle stop ends it",
                "be quiet, and stay so: sidekiq-lifecycle wait drained waits on, sidekiq-lifecycle stop ends them",
            ])
        )
    }

    fn stays_told(&self, outcome: Outcome) -> String {
        format!(
            "{}, not stopped: {}; {}: sidekiq-lifecycle wait stopped waits on",
            self.cut_short(outcome),
            self.reasons(Goal::Stopped),
            self.living_told(["stop, and will"; 2])
        )
    }
}

/// What is lost with a process that was killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Jobs,
    /// It had none when it was heard of last, or does not tell.
    Perhaps,
    Nothing,
}

impl Member {
    fn loss(&self) -> Loss {
        match &self.found.record {
            Some(record) if record.drained => Loss::Nothing,
            Some(record) if record.busy > 0 => Loss::Jobs,
            _ => Loss::Perhaps,
        }
    }

    fn cut_off(&self) -> Option<u32> {
        self.told(" cut off at Sidekiq's timeout")
    }

    fn lost(&self) -> Option<u32> {
        self.told(" lost")
    }

    /// How many jobs, as its record says: "SIGTERM, 2 cut off at Sidekiq's timeout, 1 lost".
    fn told(&self, what: &str) -> Option<u32> {
        let record = self.found.record.as_ref().filter(|record| record.state == State::Stopped)?;
        let why = record.why.as_ref()?.split(", ");
        why.filter_map(|part| part.strip_suffix(what)?.parse().ok()).next()
    }

    fn is_embedded(&self) -> bool {
        self.found.record.as_ref().is_some_and(|record| record.about.embedded)
    }

    fn facts(&self) -> Facts {
        let record = self.found.record.as_ref();
        let is_embedded_and_over = record.is_some_and(|record| record.about.embedded && record.state == State::Stopped);
        let is_gone = self.has_ended || is_embedded_and_over;
        self.found.facts(if is_gone { Presence::Gone } else { Presence::Here })
    }

    fn sight(&self) -> Sight {
        Sight { facts: self.facts(), ..Sight::from(self.found.clone()) }
    }

    /// Reads its record again. One that cannot be read, or is another's by now, changes nothing.
    fn read(&mut self) {
        let pid = self.found.snapshot.own_pid();
        let by_way = self.found.directory.entries_of(pid).unwrap_or_default().into_iter();
        let kept = self.processes.iter().flat_map(|processes| processes.entries_of(pid));
        let mut records = by_way.chain(kept).filter_map(|entry| entry.record.ok());
        let record = records.find(|record| lookup::is_of(record, &self.found.snapshot));
        self.found.record = record.or_else(|| self.found.record.take());
    }
}

/// What it means that nobody is there.
fn nobody(who: &Who, goal: Goal, others: &[Sight]) -> End {
    if let (Some(directory), []) = (who.directory(), others) {
        return (Outcome::NotReached, format!("no Sidekiq has registered in {}", directory.display()));
    }
    let elsewhere = others.iter().find(|sight| sight.facts.presence == Presence::Elsewhere && !has_ended(sight));
    let why = |facts: &Facts| facts.answer(Probe::Live, MAX_BEAT_AGE).err().unwrap_or_default();
    if let Some(sight) = elsewhere {
        return (Outcome::NotReached, why(&sight.facts));
    }
    // As it would have been answered had they ended a moment later. An embedded one's program may live on.
    let ended = others.iter().map(|sight| Facts { presence: Presence::Gone, ..sight.facts.clone() });
    let facts: Vec<Facts> = ended.collect();
    let failed = facts.iter().rev().find(|facts| goal.standing(facts) != Standing::Reached);
    match (failed, facts.last()) {
        (Some(facts), _) => (Outcome::NotReached, format!("not {goal}: {}", why(facts))),
        (None, Some(last)) => (Outcome::Reached, format!("{goal} already: {}", why(last))),
        (None, None) => (Outcome::NotReached, "no Sidekiq runs here".to_owned()),
    }
}

fn has_ended(sight: &Sight) -> bool {
    sight.facts.state == State::Stopped
}

/// `wait ready` of a directory: whoever is there then counts, for what dies meanwhile may be started again.
fn wait_until_ready(directory: &Directory, timeout: Option<Duration>, json: bool) -> ExitCode {
    let mut session = match Session::begin(timeout) {
        Ok(session) => session,
        Err(reason) => return finish(&(Outcome::NotReached, reason), &[], json),
    };
    let (end, sights) = loop {
        session.watch.directory(directory.path());
        let sights = match directory.read() {
            Ok(entries) => entries.into_iter().map(|entry| Sight::of_entry(entry, directory)).collect(),
            Err(Error::Missing(_)) => Vec::new(),
            Err(error) => break ((Outcome::NotReached, error.to_string()), Vec::new()),
        };
        let facts: Vec<Facts> = sights.iter().map(|sight| sight.facts.clone()).collect();
        let counting: Vec<Facts> = facts.iter().filter(|facts| facts.counts()).cloned().collect();
        let passed = |session: &Session| stretch(session.began.elapsed().as_secs_f64());
        let Err(reason) = probe::ask(&facts, Probe::Ready, MAX_BEAT_AGE) else {
            let names = names(&counting.iter().map(|facts| facts.pid).collect::<Vec<i32>>());
            break ((Outcome::Reached, format!("ready after {}: {names}", passed(&session))), sights);
        };
        let reason = Goal::Ready.never_ready(&counting).unwrap_or(reason);
        if session.left() == Some(Duration::ZERO) {
            break ((Outcome::TimedOut, format!("timed out after {}: {reason}", passed(&session))), sights);
        }
        session.show(Goal::Ready, &counting, vec![reason.clone()]);
        match session.sleep(&[], None) {
            Ok(Woken { signal: Some(signal), .. }) => {
                let line = format!("interrupted after {}: {reason}", passed(&session));
                break ((Outcome::Interrupted(signal), line), sights);
            }
            Ok(_) => {}
            Err(reason) => break ((Outcome::NotReached, reason), sights),
        }
    };
    drop(session);
    finish(&end, &sights, json)
}

/// "process 7"; "3 processes (7, 8, 9)".
fn names(pids: &[i32]) -> String {
    match pids {
        [] => String::new(),
        [pid] => format!("process {pid}"),
        pids => {
            let all: Vec<String> = pids.iter().map(i32::to_string).collect();
            format!("{} processes ({})", all.len(), all.join(", "))
        }
    }
}

/// Of a refusal that comes before the first signal.
fn nobody_told(why: String) -> String {
    format!("{why}; nobody was told anything")
}

fn not_allowed(found: &Found) -> String {
    let Snapshot { pid, uid, .. } = found.snapshot;
    format!("process {pid} belongs to uid {uid}; run this as that user or {}", as_root(geteuid().is_root()))
}

fn not_opened(pid: i32, errno: Errno) -> String {
    match errno {
        Errno::ENOSYS => "this kernel is older than 5.3, and knows no pidfd_open(2)".to_owned(),
        errno => format!("process {pid} cannot be opened: {}", in_words(errno)),
    }
}

/// A record is read through two descriptors. Without them a wait would see nothing change.
fn ask_for_room() -> Result<(), String> {
    let room: nix::Result<Vec<OwnedFd>> = (0..2).map(|_| dup(io::stderr())).collect();
    room.map(drop).map_err(|errno| format!("no record can be read: {}", in_words(errno)))
}

fn in_words(errno: Errno) -> String {
    match errno {
        Errno::EMFILE => format!("{}; raise ulimit -n", errno.desc()),
        errno => errno.desc().to_owned(),
    }
}

/// A thousand processes want a thousand descriptors and more.
fn allow_many() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
