//! The signal path: the chain of processes that a signal to the container, or to a service's main process, has to pass
//! on its way to Sidekiq, and what each link does with it.
//!
//! Why a signal is lost: PID 1 of a namespace gets no signal that it has no handler for (`pid_namespaces(7)`); another
//! shell dies of it, and with it often the container; and a shell with a trap runs it only when its foreground
//! command has ended (`sh(1)`, POSIX 2.11).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::program::{Program, Sidekiq};
use super::text::masked;
use super::wrappers;

/// What a process does with one signal, as its masks in /proc say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handling {
    /// The signal's default action.
    #[default]
    Default,
    /// Ignored.
    Ignored,
    /// A handler of its own.
    Handled,
    /// Blocked: an init takes it with sigwait(3) or signalfd(2); anybody else never.
    Blocked,
}

/// One process of the chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Link {
    /// Its process id.
    pub pid: i32,
    /// What kind of program it is.
    pub program: Program,
    /// Its name, for people.
    pub name: String,
    /// Its command line.
    pub arguments: Vec<String>,
    /// It has no parent in its PID namespace: the container ends with it.
    pub is_first: bool,
    /// It is PID 1 of its PID namespace, whatever its pid is for whoever looks from outside.
    pub is_pid1: bool,
    /// What it does with TERM.
    pub term: Handling,
    /// What it does with TSTP.
    pub tstp: Handling,
    /// A shell that ignores what a terminal sends to stop it, and TERM.
    pub is_interactive: bool,
    /// It has a controlling terminal.
    pub has_terminal: bool,
    /// Its process group.
    pub group: i32,
    /// The variables of its environment that an init goes by: `TINI_…`, `DUMB_INIT_…`.
    pub variables: Vec<String>,
    /// Seconds between the TERM that it passes on and its SIGKILL (see [`wrappers`]).
    pub kills_after: Option<f64>,
    /// It is the init of the machine: PID 1 of the first PID namespace.
    pub is_machines: bool,
    /// The signals that `run`, above it, gives to it (see [`reach`](super::recipients::reach)).
    pub told_by_run: Vec<Asked>,
    /// Its traps [run at once](super::traps), for the next link runs in its background.
    pub is_free: bool,
    /// How many threads it has.
    pub threads: u32,
    /// The relay carries signals past it.
    pub is_relayed: bool,
}

/// The two signals that the path is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Asked {
    /// TERM.
    Stop,
    /// TSTP.
    Quiet,
}

/// What a link does with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// This is Sidekiq.
    Arrives,
    /// It passes the signal on, and waits for whom it has passed it on to.
    Forwards,
    /// It passes the signal on to its whole process group or session.
    ForwardsToGroup,
    /// The relay carries the signal past it.
    Relayed,
    /// The signal has no effect on it, and none on anybody else.
    Drops,
    /// It dies of the signal, and passes nothing on.
    Dies,
    /// It is stopped by the signal, and passes nothing on.
    Stops,
    /// It stops itself and all below it, with SIGSTOP.
    Freezes,
    /// A trap, which runs only when the foreground command has ended.
    Defers,
    /// A trap, which runs at once; what it does cannot be seen.
    Traps,
    /// It passes the signal on, and kills what has not ended some seconds later.
    Kills,
    /// It ends at once, and passes nothing on.
    Leaves,
    /// A handler, or a supervisor's own way; what it does cannot be seen.
    Unknown,
}

/// What becomes of a signal that is sent to the first link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It arrives, and Sidekiq is left the time it takes.
    Arrives,
    /// It arrives, but a link ends at once, and all that still runs is killed.
    CutShort,
    /// It never arrives.
    Lost,
    /// It arrives as SIGSTOP: Sidekiq stands still.
    Freezes,
    /// It cannot be told from outside.
    Unknown,
}

impl Fate {
    /// Whether jobs are lost.
    #[must_use]
    pub fn is_bad(self) -> bool {
        matches!(self, Self::CutShort | Self::Lost | Self::Freezes)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Arrives => "arrives",
            Self::CutShort => "arrives but is cut short",
            Self::Lost => "is lost",
            Self::Freezes => "freezes Sidekiq",
            Self::Unknown => "cannot be followed",
        })
    }
}

/// Whom systemd signals when it stops a service (`systemd.kill(5)`, KillMode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// Every process of the service, and it waits for all of them.
    ControlGroup,
    /// The main process; what is left when that has ended is killed.
    Mixed,
    /// The main process alone.
    Process,
}

impl KillMode {
    /// By systemd's own name for it; `none` sends nothing, and is none of these.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "control-group" => Some(Self::ControlGroup),
            "mixed" => Some(Self::Mixed),
            "process" => Some(Self::Process),
            _ => None,
        }
    }
}

impl fmt::Display for KillMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::ControlGroup => "control-group",
            Self::Mixed => "mixed",
            Self::Process => "process",
        })
    }
}

/// A chain of links, Sidekiq first and PID 1 last.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Path {
    links: Vec<Link>,
    /// How systemd stops the service, where it was asked.
    kill_mode: Option<KillMode>,
    /// Seconds that Sidekiq takes to stop, as far as they are known.
    needed: Option<f64>,
    /// It begins beside PID 1 of its container, as with `docker exec`: what stops the container does not come here.
    is_beside: bool,
}

impl Link {
    /// What it does with a signal, if it is not Sidekiq itself.
    #[must_use]
    pub fn effect(&self, asked: Asked) -> Effect {
        let handling = self.handling(asked);
        let decides = self.program == Program::Shell && self.is_free && handling == Handling::Handled;
        if self.is_carried() && !decides {
            return Effect::Relayed;
        }
        match (self.program, asked) {
            (Program::Run, _) => return Effect::Forwards,
            (Program::Manager, _) => return Effect::Unknown,
            (Program::DumbInit, _) if self.is_single_child() => return Effect::Forwards,
            (Program::DumbInit, Asked::Quiet) if !self.rewrites_tstp() => return Effect::Freezes,
            (Program::DumbInit, _) => return Effect::ForwardsToGroup,
            (Program::Tini, _) if self.signals_group() => return Effect::ForwardsToGroup,
            (Program::Catatonit, Asked::Quiet) => return Effect::Drops,
            (Program::Tini | Program::Catatonit, _) => return Effect::Forwards,
            _ => {}
        }
        match (handling, self.program, asked) {
            (Handling::Ignored, ..) => Effect::Drops,
            (Handling::Handled, Program::Shell, _) if decides => Effect::Traps,
            (Handling::Handled, Program::Shell, _) => Effect::Defers,
            (Handling::Blocked, Program::Shell | Program::Timeout, _) => Effect::Drops,
            (Handling::Handled | Handling::Blocked, Program::Runsvdir, Asked::Stop) => Effect::Leaves,
            (Handling::Handled | Handling::Blocked, _, Asked::Stop) if self.kills_after.is_some() => Effect::Kills,
            (
                Handling::Handled | Handling::Blocked,
                Program::Timeout | Program::Runsv | Program::S6Svscan | Program::S6Supervise,
                Asked::Stop,
            )
            | (Handling::Handled | Handling::Blocked, Program::Sudo, _) => Effect::Forwards,
            (Handling::Handled | Handling::Blocked, ..) => Effect::Unknown,
            (Handling::Default, ..) if self.is_pid1 => Effect::Drops,
            (Handling::Default, _, Asked::Stop) => Effect::Dies,
            (Handling::Default, _, Asked::Quiet) => Effect::Stops,
        }
    }

    fn handling(&self, asked: Asked) -> Handling {
        match asked {
            Asked::Stop => self.term,
            Asked::Quiet => self.tstp,
        }
    }

    /// Whether a person sits at it: an interactive shell at a terminal, that was not given a command to run.
    #[must_use]
    pub fn is_persons(&self) -> bool {
        self.program == Program::Shell
            && self.is_interactive
            && self.has_terminal
            && matches!(self.command(), ShellCommand::Hidden)
    }

    /// Whether the relay carries signals past it, and does not only have it [wait at its end](Path::can_be_held).
    #[must_use]
    pub fn is_carried(&self) -> bool {
        self.is_relayed && self.can_be_relayed()
    }

    /// Whether the relay may carry signals past it: a shell that no person sits at, timeout(1), dumb-init where it would
    /// freeze, or a program that does nothing with TERM. Anything else has its own ways.
    #[must_use]
    pub fn can_be_relayed(&self) -> bool {
        match self.program {
            Program::Shell => !self.is_persons(),
            Program::Timeout => true,
            Program::DumbInit => !self.is_single_child() && !self.rewrites_tstp(),
            // These take their signals with sigwait(3) and signalfd(2), which no tracer sees.
            Program::Tini
            | Program::Catatonit
            | Program::Run
            | Program::Relay
            | Program::Manager
            | Program::Runtime => false,
            _ => self.term == Handling::Default,
        }
    }

    /// In words: what it does with a signal, and how that is known.
    #[must_use]
    pub fn verdict(&self, asked: Asked) -> String {
        let (signal, number) = match asked {
            Asked::Stop => ("TERM", 15),
            Asked::Quiet => ("TSTP", 20),
        };
        match self.effect(asked) {
            Effect::Arrives => "is Sidekiq".to_owned(),
            Effect::Forwards if self.program == Program::Run => format!("passes {signal} on to Sidekiq itself"),
            Effect::Forwards => format!("passes {signal} on to its child"),
            Effect::ForwardsToGroup => format!("passes {signal} on to all of its group"),
            Effect::Relayed => format!("has {signal} carried past it by the relay"),
            Effect::Drops if self.program == Program::Catatonit && asked == Asked::Quiet => {
                format!("drops {signal}, as it always does")
            }
            Effect::Drops if self.is_pid1 && self.handling(asked) == Handling::Default => {
                let place = if self.pid == 1 { "PID 1" } else { "PID 1 of its container" };
                format!("drops {signal}: it is {place} and has no handler for it (bit {number} of SigCgt is not set)")
            }
            Effect::Drops => {
                format!("drops {signal}: it ignores or blocks it (bit {number} of SigIgn or SigBlk is set)")
            }
            Effect::Dies => format!("dies of {signal} and passes nothing on (bit {number} of SigCgt is not set)"),
            Effect::Stops => {
                format!("is stopped by {signal} and passes nothing on (bit {number} of SigCgt is not set)")
            }
            Effect::Freezes => format!("turns {signal} into SIGSTOP, for itself and for all below it"),
            Effect::Defers => format!("has a trap for {signal} that runs only when its foreground command has ended"),
            Effect::Traps => format!("has a trap for {signal} that runs at once; what it does cannot be seen"),
            Effect::Kills => {
                let seconds = self.kills_after.unwrap_or_default();
                format!("passes {signal} on, and kills what has not ended {seconds} s later")
            }
            Effect::Leaves => format!("ends at once when it gets {signal}, and passes nothing on"),
            Effect::Unknown if self.program == Program::Manager => "stops its services in its own way".to_owned(),
            Effect::Unknown if asked == Asked::Stop && self.program == Program::Foreman => {
                "passes TERM on, and kills what has not ended after its --timeout, which is 5 s if it is not set"
                    .to_owned()
            }
            Effect::Unknown if asked == Asked::Stop && self.program == Program::Supervisord => {
                "passes TERM on, and kills a program after its stopwaitsecs, which is 10 if it is not set".to_owned()
            }
            Effect::Unknown if self.is_relayed && asked == Asked::Stop => {
                format!("handles {signal} in a way that cannot be seen; at its end the relay has it wait for Sidekiq")
            }
            Effect::Unknown => format!("handles {signal} in a way that cannot be seen"),
        }
    }

    /// tini's and dumb-init's own options stand before the command, or before `--`. Theirs that take a value are few.
    fn own_options(&self) -> impl Iterator<Item = &str> {
        let mut is_value = false;
        self.arguments.iter().skip(1).map(String::as_str).take_while(move |word| {
            let is_option = is_value || (word.starts_with('-') && *word != "--");
            is_value = !is_value && matches!(*word, "-p" | "-e" | "-r" | "--rewrite");
            is_option
        })
    }

    fn has_flag(&self, short: char, long: Option<&str>) -> bool {
        self.own_options().any(|word| {
            Some(word) == long
                || word.strip_prefix('-').is_some_and(|flags| !flags.starts_with('-') && flags.contains(short))
        })
    }

    /// tini signals its child's process group (`tini.c`).
    fn signals_group(&self) -> bool {
        self.has_flag('g', None)
            || self.variables.iter().any(|variable| variable.starts_with("TINI_KILL_PROCESS_GROUP="))
    }

    /// dumb-init signals its child alone, and not all of a session (`dumb-init.c`).
    fn is_single_child(&self) -> bool {
        self.has_flag('c', Some("--single-child"))
            || self.variables.iter().any(|variable| variable.starts_with("DUMB_INIT_SETSID=0"))
    }

    fn rewrites_tstp(&self) -> bool {
        self.own_options().any(|word| word.trim_start_matches("--rewrite=").starts_with("20:"))
    }
}

impl Path {
    /// The path from Sidekiq (the first of `links`) upwards. What is above the init of a machine, systemd, or a shell at which a
    /// person sits, is no part of it: signals come from there, not from further up. They do not come from a person whose
    /// shell is what a container runs.
    #[must_use]
    pub fn new(mut links: Vec<Link>) -> Self {
        let runtime = links.iter().position(|link| link.program == Program::Runtime);
        let is_started = runtime.is_some();
        if let Some(runtime) = runtime {
            links.truncate(runtime);
            if let Some(first) = links.last_mut() {
                first.is_first = true;
            }
        }
        let mut path = Self { links, ..Self::default() };
        let is_end = |index: &usize| {
            path.links.get(*index).is_some_and(|link| {
                link.is_machines || link.program == Program::Manager || (link.is_persons() && !path.ends_all(*index))
            })
        };
        let end = (1..path.links.len()).find(is_end).unwrap_or(path.links.len());
        path.links.truncate(end + 1);
        path.is_beside = !is_started && path.links.last().is_some_and(|top| top.is_first && !top.is_pid1);
        path
    }

    /// The path of a service that systemd stops in this way; of no account where it is not systemd that the path begins
    /// with, but a container's PID 1.
    #[must_use]
    pub fn with_kill_mode(self, kill_mode: Option<KillMode>) -> Self {
        let is_service = self.links.last().is_some_and(|top| top.program == Program::Manager);
        Self { kill_mode: kill_mode.filter(|_| is_service), ..self }
    }

    /// The path of a Sidekiq that takes so many seconds to stop: a link may leave it less.
    #[must_use]
    pub fn with_needed(self, needed: Option<f64>) -> Self {
        Self { needed, ..self }
    }

    /// How systemd stops the service, where it was asked.
    #[must_use]
    pub fn kill_mode(&self) -> Option<KillMode> {
        self.kill_mode
    }

    /// Whether it is a person who stops this Sidekiq, and waits for it.
    #[must_use]
    pub fn is_persons(&self) -> bool {
        self.links.len() > 1
            && self.links.last().is_some_and(|top| top.is_persons() && !self.ends_all(self.links.len() - 1))
    }

    /// The path as it would be if there were no relay.
    #[must_use]
    pub fn without_relay(mut self) -> Self {
        self.links.iter_mut().for_each(|link| link.is_relayed = false);
        self
    }

    /// Sidekiq first.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// What a link of this path does with a signal.
    #[must_use]
    pub fn effect(&self, index: usize, asked: Asked) -> Effect {
        match self.links.get(index) {
            Some(link) if index > 0 => link.effect(asked),
            _ => Effect::Arrives,
        }
    }

    /// What becomes of a signal, and the index of the link that decides it.
    #[must_use]
    pub fn fate(&self, asked: Asked) -> (Fate, usize) {
        if self.is_beside {
            return (Fate::Lost, self.links.len() - 1);
        }
        let Some(top) = self.links.len().checked_sub(1).filter(|top| *top > 0) else { return (Fate::Arrives, 0) };
        let is_for_all = self.kill_mode == Some(KillMode::ControlGroup);
        let mut walk = Walk { told: vec![is_for_all; self.links.len()], is_for_all, ..Walk::default() };
        walk.tell(top);
        for index in (1..=top).rev() {
            if let Some(link) = self.links.get(index).filter(|_| walk.is_told(index)) {
                self.step(link, index, asked, &mut walk);
            }
        }
        walk.end()
    }

    /// What a link that has got the signal does with it.
    fn step(&self, link: &Link, index: usize, asked: Asked, walk: &mut Walk) {
        let below = index - 1;
        // systemd signals the main process; whoever sits at a shell, the processes themselves.
        if link.program == Program::Manager || (link.is_persons() && !self.ends_all(index)) || link.is_machines {
            return walk.tell(below);
        }
        match link.effect(asked) {
            Effect::Arrives => {}
            Effect::Forwards if link.program == Program::Run => self.run(link, index, asked, walk),
            Effect::Forwards => walk.tell(below),
            Effect::ForwardsToGroup => self.group(below).for_each(|told| walk.tell(told)),
            Effect::Freezes if self.group(below).any(|member| member == 0) => walk.freezes(index),
            Effect::Freezes | Effect::Stops | Effect::Defers | Effect::Drops => walk.swallows(index),
            // dumb-init takes its signals itself; the relay only keeps it from freezing.
            Effect::Relayed if link.program == Program::DumbInit => walk.tell(below),
            // The relay signals Sidekiq itself, or what decides for several.
            Effect::Relayed => walk.tell(self.decider(index, asked)),
            Effect::Kills => {
                walk.tell(below);
                self.kills(link.kills_after.unwrap_or_default(), index, walk);
            }
            // systemd may signal all of the service's processes, or only this one.
            Effect::Dies if self.kill_mode.is_none() && self.is_below_manager(index) => {
                walk.doubts(index);
                walk.tell(below);
            }
            // systemd waits for all that is left.
            Effect::Dies | Effect::Leaves if walk.is_for_all => {}
            Effect::Dies | Effect::Leaves if walk.outlives => walk.tell(0),
            Effect::Dies | Effect::Leaves => walk.ends_early(index),
            Effect::Traps | Effect::Unknown => {
                walk.doubts(index);
                walk.tell(below);
            }
        }
    }

    /// The links below an init that get what it sends to the process group of its child, `below`.
    fn group(&self, below: usize) -> impl Iterator<Item = usize> {
        let group = self.links.get(below).map(|child| child.pid);
        let members = self.links.iter().take(below + 1).enumerate();
        members.filter(move |(_, link)| Some(link.group) == group).map(|(index, _)| index)
    }

    /// What `run` does: it gives the signal to whom it chooses, and a worker that outlives the command is told to stop, and is
    /// waited for.
    fn run(&self, run: &Link, index: usize, asked: Asked, walk: &mut Walk) {
        let told = self.links.iter().take(index).enumerate().filter(|(_, link)| link.told_by_run.contains(&asked));
        told.for_each(|(told, _)| walk.tell(told));
        walk.outlives = asked == Asked::Stop && self.needed.unwrap_or_default() <= wrappers::grace(&run.arguments);
        match run.kills_after {
            Some(seconds) if asked == Asked::Stop => self.kills(seconds, index, walk),
            _ => {}
        }
    }

    /// A link kills some seconds after TERM.
    fn kills(&self, seconds: f64, index: usize, walk: &mut Walk) {
        match self.needed {
            Some(needed) if needed <= seconds => {}
            Some(_) => walk.ends_early(index),
            None => walk.doubts(index),
        }
    }

    /// The first link below one that handles the signal for several programs, or Sidekiq.
    fn decider(&self, index: usize, asked: Asked) -> usize {
        let decides = |below: &usize| {
            self.links.get(*below).is_some_and(|link| {
                link.program.decides() && matches!(link.handling(asked), Handling::Handled | Handling::Blocked)
            })
        };
        (1..index).rev().find(decides).unwrap_or(0)
    }

    /// The pids that the relay should take, if it is needed at all: to carry signals past them, or to have them wait at their end.
    #[must_use]
    pub fn to_be_relayed(&self) -> Vec<i32> {
        let is_needed = [Asked::Stop, Asked::Quiet].into_iter().any(|asked| self.fate(asked).0 != Fate::Arrives);
        let is_taken = |index: usize, link: &Link| link.can_be_relayed() || self.can_be_held(index);
        let links = self.links.iter().enumerate().skip(1).filter(|(index, link)| is_needed && is_taken(*index, link));
        links.map(|(_, link)| link.pid).collect()
    }

    /// Whether a link is a program that handles TERM and at whose end all that still runs is killed: Puma with a Sidekiq below
    /// it, a supervisor. The relay lets it decide, and has it wait for Sidekiq before it ends. Whether the signal arrives
    /// it cannot tell all the same: the program may never end.
    #[must_use]
    pub fn can_be_held(&self, index: usize) -> bool {
        let is_program = |link: &Link| {
            let is_sidekiq = Sidekiq::of(&link.name, None, &link.arguments).is_some();
            link.program == Program::Other && link.term == Handling::Handled && !is_sidekiq && link.threads > 0
        };
        self.links.get(index).is_some_and(is_program) && self.ends_all(index)
    }

    /// Whether the container, or what stands for it, ends when this link does, so that whatever still runs is killed.
    #[must_use]
    pub fn ends_all(&self, index: usize) -> bool {
        let is_first = self.links.get(index).is_some_and(|link| link.is_first);
        is_first || self.links.get(index + 1).is_some_and(|parent| parent.program.ends_with_first_child())
    }

    /// What is wrong where the signals to a container do not come here at all.
    #[must_use]
    pub fn beside(&self) -> Option<&'static str> {
        self.is_beside.then_some(
            "Sidekiq was started beside PID 1 of its container (docker exec), so what stops the container tells PID 1 and never Sidekiq",
        )
    }

    /// What is wrong with the path, in words: TERM first, for of that jobs are lost. `None` if nothing is for sure.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let top = self.links.last()?;
        if let Some(beside) = self.beside() {
            return Some(beside.to_owned());
        }
        [(Asked::Stop, "SIGTERM"), (Asked::Quiet, "SIGTSTP")].into_iter().find_map(|(asked, signal)| {
            let (fate, index) = self.fate(asked);
            // Below a supervisor with ways of its own nobody expects TSTP to pass.
            let is_expected =
                asked == Asked::Stop || fate == Fate::Freezes || self.fate(Asked::Stop).0 == Fate::Arrives;
            let link = self.links.get(index).filter(|_| fate.is_bad() && is_expected)?;
            let verdict = link.verdict(asked);
            Some(format!("a {signal} sent to {} {fate}: {} {verdict}", top.title(), link.title()))
        })
    }

    /// Why it cannot be told whether TERM arrives, in words; `None` where it can.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let (fate, index) = self.fate(Asked::Stop);
        let link = self.links.get(index).filter(|_| fate == Fate::Unknown)?;
        let (top, verdict) = (self.links.last()?.title(), link.verdict(Asked::Stop));
        Some(format!("whether a SIGTERM sent to {top} arrives cannot be told: {} {verdict}", link.title()))
    }

    /// The shortest way to a sound path; `None` if it is sound. Nothing of a command line is in it, for it goes to logs and to
    /// files that others may read.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        self.shortest_fix(false)
    }

    /// The same in words to paste, for whoever asks the doctor. What looks like a secret is hidden there, too.
    #[must_use]
    pub fn fix_in_full(&self) -> Option<String> {
        self.shortest_fix(true)
    }

    fn shortest_fix(&self, in_full: bool) -> Option<String> {
        if self.is_beside {
            return Some("start it as the container's command, or in a container of its own".to_owned());
        }
        let culprit = |asked| match self.fate(asked) {
            (Fate::Arrives, _) => None,
            (_, index) => self.links.get(index).map(|link| (link, index, asked)),
        };
        let (link, index, asked) = culprit(Asked::Stop).or_else(|| culprit(Asked::Quiet))?;
        let is_below_run = self.links.iter().skip(index + 1).any(|above| above.program == Program::Run);
        // What helps nearly everybody.
        let or_run = if is_below_run { "" } else { ", or put sidekiq-lifecycle run -- in front of it" };
        let (name, needed) = (&link.name, self.needed_in_words());
        Some(match (link.program, asked, link.effect(asked)) {
            (_, Asked::Stop, Effect::Dies | Effect::Leaves) if is_below_run => {
                format!("give sidekiq-lifecycle run a --grace of at least {needed}")
            }
            // In front of it `run` leaves the decision to the trap as well.
            (Program::Shell, _, Effect::Traps) => {
                "try it with sidekiq-lifecycle doctor -- in front of it, or leave the trap out and put exec before the command that \
                 starts Sidekiq"
                    .to_owned()
            }
            (Program::Shell, ..) => format!("{}{or_run}", link.fix_shell(in_full)),
            (Program::DumbInit, Asked::Quiet, _) => {
                "write dumb-init --rewrite 20:20, or sidekiq-lifecycle run -- in its place".to_owned()
            }
            (Program::Tini | Program::DumbInit | Program::Catatonit, ..) => {
                format!("write sidekiq-lifecycle run -- in place of {name}")
            }
            (Program::Run, ..) => format!("give sidekiq-lifecycle run a --stop-grace of at least {needed}, or none"),
            (Program::Timeout, ..) => format!("leave timeout out of the command that starts Sidekiq{or_run}"),
            (Program::Su, ..) => format!("write setpriv in place of {name}, which leaves no process between{or_run}"),
            (Program::Foreman, ..) => format!("start Sidekiq without foreman{or_run}"),
            (Program::Supervisord, Asked::Stop, _) => format!("set stopwaitsecs of the program to at least {needed}"),
            (Program::S6Supervise, Asked::Stop, _) => {
                "set the service's timeout-kill to 0, which is no limit".to_owned()
            }
            (Program::Init, ..) => "let sidekiq-lifecycle run -- start the worker in place of init".to_owned(),
            _ => format!("let {name} pass signals on{or_run}"),
        })
    }

    fn needed_in_words(&self) -> String {
        self.needed
            .map_or_else(|| "the seconds that Sidekiq needs, -t and 4".to_owned(), |needed| format!("{needed} s"))
    }

    fn is_below_manager(&self, index: usize) -> bool {
        self.links.get(index + 1).is_some_and(|parent| parent.program == Program::Manager)
    }
}

/// A signal on its way down the path.
#[derive(Default)]
struct Walk {
    /// The links that get it, by index.
    told: Vec<bool>,
    /// All have got it at once, from systemd, which waits for all of them.
    is_for_all: bool,
    /// `run` is above: what outlives its command is told to stop, and waited for.
    outlives: bool,
    frozen: Option<usize>,
    /// The first link that does nothing with it.
    swallowed: Option<usize>,
    /// The first link whose end, or whose kill, comes before Sidekiq is done.
    early: Option<usize>,
    /// The last link of which it cannot be told.
    doubtful: Option<usize>,
}

impl Walk {
    fn tell(&mut self, index: usize) {
        if let Some(told) = self.told.get_mut(index) {
            *told = true;
        }
    }

    fn is_told(&self, index: usize) -> bool {
        self.told.get(index) == Some(&true)
    }

    fn freezes(&mut self, index: usize) {
        self.frozen.get_or_insert(index);
    }

    fn swallows(&mut self, index: usize) {
        self.swallowed.get_or_insert(index);
    }

    fn ends_early(&mut self, index: usize) {
        self.early.get_or_insert(index);
    }

    fn doubts(&mut self, index: usize) {
        self.doubtful = Some(index);
    }

    fn end(self) -> (Fate, usize) {
        let arrived = self.is_told(0);
        match (self.frozen, self.early, self.swallowed, self.doubtful) {
            (Some(index), ..) => (Fate::Freezes, index),
            (_, Some(index), ..) if arrived => (Fate::CutShort, index),
            (_, early, swallowed, doubtful) if !arrived => {
                (Fate::Lost, early.max(swallowed).or(doubtful).unwrap_or_default())
            }
            (.., Some(index)) => (Fate::Unknown, index),
            _ => (Fate::Arrives, 0),
        }
    }
}

impl Link {
    /// For people: `sh (pid 1)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} (pid {})", self.name, self.pid)
    }

    fn fix_shell(&self, in_full: bool) -> String {
        match self.command() {
            ShellCommand::Words(words) if in_full => {
                let json = words.iter().map(|word| format!("\"{}\"", masked(word))).collect::<Vec<_>>().join(", ");
                format!("write CMD [{json}]")
            }
            ShellCommand::Line(line) if in_full => {
                format!("put exec before the command that starts Sidekiq in `{}`", masked(line))
            }
            ShellCommand::Words(_) | ShellCommand::Line(_) => {
                format!("put exec before the command that starts Sidekiq in `{} -c '…'`", self.name)
            }
            ShellCommand::Script(script) if in_full || is_path(script) => {
                format!("put exec before the command that starts Sidekiq, the last one of {script}")
            }
            ShellCommand::Script(_) | ShellCommand::Hidden => {
                "put exec before the command that starts Sidekiq".to_owned()
            }
        }
    }

    fn command(&self) -> ShellCommand<'_> {
        let is_busybox = self.arguments.first().is_some_and(|word| word.ends_with("busybox"));
        let mut words = self.arguments.iter().map(String::as_str).skip(1 + usize::from(is_busybox));
        let mut is_line = false;
        let operand = loop {
            match words.next() {
                Some(word) if word.starts_with("--") => {}
                Some(word) if word.starts_with(['-', '+']) => {
                    is_line |= word.starts_with('-') && word.contains('c');
                    // -o pipefail, or -eo pipefail
                    if word.ends_with('o') {
                        words.next();
                    }
                }
                operand => break operand,
            }
        };
        match operand {
            None => ShellCommand::Hidden,
            Some(script) if !is_line => ShellCommand::Script(script),
            Some(line) => {
                let is_plain = |letter: char| letter.is_ascii_alphanumeric() || " ./_-:=,@%+".contains(letter);
                let words: Vec<&str> = line.trim_start_matches("exec ").split_ascii_whitespace().collect();
                // VAR=value in front is no command.
                let is_simple = line.chars().all(is_plain) && words.first().is_some_and(|word| !word.contains('='));
                if is_simple { ShellCommand::Words(words) } else { ShellCommand::Line(line) }
            }
        }
    }
}

/// Whether it is a file's path and nothing else.
fn is_path(word: &str) -> bool {
    word.chars().all(|letter| letter.is_ascii_alphanumeric() || "._/-".contains(letter))
}

enum ShellCommand<'a> {
    /// `sh -c 'a b c'`: needs no shell.
    Words(Vec<&'a str>),
    /// `sh -c 'a; b'`.
    Line(&'a str),
    /// `sh script`.
    Script(&'a str),
    /// A script from the standard input, or another user's.
    Hidden,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(pid: i32, program: Program, command: &str) -> Link {
        // A quoted part is one argument.
        let arguments: Vec<String> = command
            .split('\'')
            .enumerate()
            .flat_map(|(index, part)| match index % 2 {
                0 => part.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>(),
                _ => vec![part.to_owned()],
            })
            .collect();
        Link {
            pid,
            program,
            name: arguments[0].clone(),
            arguments,
            is_first: pid == 1,
            is_pid1: pid == 1,
            group: pid,
            threads: 1,
            ..Link::default()
        }
    }

    fn worker() -> Link {
        let handled = Handling::Handled;
        let sidekiq = link(99, Program::Other, "sidekiq");
        Link { term: handled, tstp: handled, threads: 9, told_by_run: vec![Asked::Stop, Asked::Quiet], ..sidekiq }
    }

    fn shell(pid: i32, command: &str) -> Link {
        link(pid, Program::Shell, command)
    }

    fn trap(pid: i32) -> Link {
        Link { term: Handling::Handled, ..shell(pid, "bash /app/entry.sh") }
    }

    fn init(program: Program, command: &str) -> Link {
        Link { term: Handling::Blocked, tstp: Handling::Blocked, ..link(1, program, command) }
    }

    /// Given from PID 1 down, as people think of it. All below it are in one process group, but for who is in a group of a
    /// number of its own.
    fn path(above: &[Link]) -> Path {
        path_to(worker(), above)
    }

    fn path_to(worker: Link, above: &[Link]) -> Path {
        let leader = above.get(1).map_or(worker.pid, |child| child.pid);
        let links = std::iter::once(&worker).chain(above.iter().rev()).cloned();
        Path::new(
            links.map(|link| if link.group == link.pid { Link { group: leader, ..link } } else { link }).collect(),
        )
    }

    #[test]
    fn what_becomes_of_term_and_tstp() {
        use Fate::{Arrives, CutShort, Freezes, Lost, Unknown};
        let tini = || init(Program::Tini, "tini -- sh /app/entry.sh");
        let free = |link| Link { is_free: true, ..link };
        let systemd = || init(Program::Manager, "/sbin/init");
        let bash = |pid| shell(pid, "bash /app/entry.sh");
        let relayed = |link| Link { is_relayed: true, ..link };
        let interactive =
            |link| Link { is_interactive: true, tstp: Handling::Ignored, term: Handling::Ignored, ..link };
        let person = |pid| Link { has_terminal: true, ..interactive(shell(pid, "-bash")) };
        let known = |pid, program| Link { term: Handling::Handled, ..link(pid, program, "known") };
        let other = |pid, term| Link { term, ..link(pid, Program::Other, "foreman start") };
        let table: &[(&str, Vec<Link>, Fate, Fate)] = &[
            ("PID 1 itself", vec![], Arrives, Arrives),
            ("sh -c", vec![shell(1, "sh -c 'sidekiq'")], Lost, Lost),
            ("trap, foreground", vec![trap(1)], Lost, Lost),
            ("trap, background", vec![free(trap(1))], Unknown, Lost),
            ("an ignoring shell", vec![Link { term: Handling::Ignored, ..bash(1) }], Lost, Lost),
            ("tini", vec![tini()], Arrives, Arrives),
            ("tini and a shell", vec![tini(), bash(7)], Lost, Lost),
            ("tini and a trap", vec![tini(), trap(7)], Lost, Lost),
            ("tini -g and a shell", vec![init(Program::Tini, "tini -vg -- sh x"), bash(7)], CutShort, Arrives),
            ("tini, -g of the child's", vec![init(Program::Tini, "tini sh -g"), bash(7)], Lost, Lost),
            ("tini -p value", vec![init(Program::Tini, "tini -p SIGTERM -g -- x"), bash(7)], CutShort, Arrives),
            ("dumb-init", vec![init(Program::DumbInit, "dumb-init sidekiq")], Arrives, Freezes),
            ("dumb-init and a shell", vec![init(Program::DumbInit, "dumb-init sh x"), bash(7)], CutShort, Freezes),
            ("dumb-init -c and a shell", vec![init(Program::DumbInit, "dumb-init -c sh x"), bash(7)], Lost, Lost),
            ("dumb-init -c", vec![init(Program::DumbInit, "dumb-init --single-child sidekiq")], Arrives, Arrives),
            ("dumb-init, rewritten", vec![init(Program::DumbInit, "dumb-init -r 20:20 sidekiq")], Arrives, Arrives),
            ("dumb-init, rewritten", vec![init(Program::DumbInit, "dumb-init --rewrite=20:20 x")], Arrives, Arrives),
            ("catatonit", vec![init(Program::Catatonit, "catatonit -- sidekiq")], Arrives, Lost),
            ("sh, tini, sh", vec![bash(1), link(7, Program::Tini, "tini -s -- sh x"), bash(8)], Lost, Lost),
            (
                "timeout",
                vec![tini(), Link { term: Handling::Handled, ..link(7, Program::Timeout, "timeout 9 x") }],
                Arrives,
                Lost,
            ),
            ("run and a shell", vec![init(Program::Run, "sidekiq-lifecycle run -- sh x"), bash(7)], Arrives, Arrives),
            ("systemd", vec![systemd()], Arrives, Arrives),
            ("systemd and a shell", vec![systemd(), bash(7)], Unknown, Lost),
            ("init of the machine", vec![Link { is_machines: true, ..known(1, Program::Init) }], Arrives, Arrives),
            ("busybox init", vec![Link { kills_after: Some(1.0), ..known(1, Program::Init) }], Unknown, Lost),
            ("runsvdir", vec![known(1, Program::Runsvdir), known(7, Program::Runsv)], Lost, Lost),
            ("tini, runsvdir", vec![tini(), known(6, Program::Runsvdir), known(7, Program::Runsv)], Lost, Lost),
            ("s6", vec![known(1, Program::S6Svscan), known(7, Program::S6Supervise)], Arrives, Lost),
            ("su", vec![tini(), Link { kills_after: Some(2.0), ..known(7, Program::Su) }], Unknown, Lost),
            ("sudo", vec![tini(), Link { tstp: Handling::Handled, ..known(7, Program::Sudo) }], Arrives, Arrives),
            ("foreman", vec![known(1, Program::Foreman)], Unknown, Lost),
            (
                "a runtime of the host",
                vec![link(1, Program::Manager, "init"), link(5, Program::Runtime, "x")],
                Arrives,
                Arrives,
            ),
            ("a runtime of the host, a shell", vec![systemd(), link(5, Program::Runtime, "x"), bash(7)], Lost, Lost),
            ("a terminal", vec![systemd(), other(5, Handling::Handled), person(7)], Arrives, Arrives),
            (
                "bash -ic",
                vec![systemd(), other(5, Handling::Handled), interactive(shell(7, "bash -ic 'x'"))],
                Lost,
                Lost,
            ),
            (
                "bash -ic at a terminal",
                vec![tini(), Link { has_terminal: true, ..interactive(shell(7, "bash -ic 'x'")) }],
                Lost,
                Lost,
            ),
            ("a person's shell without a terminal", vec![tini(), interactive(shell(7, "bash -i"))], Lost, Lost),
            ("a person in a container", vec![tini(), person(7)], Lost, Lost),
            ("a shell at a terminal", vec![systemd(), person(7), bash(8)], Lost, Lost),
            ("a terminal in a container", vec![person(1)], Lost, Lost),
            ("a program with a handler", vec![other(1, Handling::Handled)], Unknown, Lost),
            ("a program without", vec![other(1, Handling::Default)], Lost, Lost),
            ("a program with sigwait", vec![other(1, Handling::Blocked)], Unknown, Lost),
            ("the relay", vec![relayed(bash(1))], Arrives, Arrives),
            ("the relay and a trap, foreground", vec![relayed(trap(1))], Arrives, Arrives),
            ("the relay and a trap, background", vec![relayed(free(trap(1)))], Unknown, Arrives),
            ("the relay, above a trap", vec![relayed(bash(1)), relayed(free(trap(7)))], Arrives, Arrives),
            ("the relay, and a handler since", vec![relayed(other(1, Handling::Handled))], Unknown, Lost),
            ("the relay, in part", vec![bash(1), relayed(bash(7))], Lost, Lost),
            ("the relay, above", vec![relayed(bash(1)), bash(7)], Arrives, Arrives),
            (
                "dumb-init and the relay, above",
                vec![relayed(init(Program::DumbInit, "dumb-init x")), bash(7)],
                Lost,
                Lost,
            ),
            ("tini and the relay", vec![tini(), relayed(bash(7))], Arrives, Arrives),
            ("dumb-init and the relay", vec![relayed(init(Program::DumbInit, "dumb-init x"))], Arrives, Arrives),
        ];
        for (name, links, term, tstp) in table {
            let path = path(links);
            assert_eq!((path.fate(Asked::Stop).0, path.fate(Asked::Quiet).0), (*term, *tstp), "{name}");
        }
    }

    #[test]
    fn a_signal_to_a_group_reaches_who_is_in_it() {
        use Fate::{Arrives, CutShort, Lost};
        let elsewhere = || Link { group: 50, ..worker() };
        let tini = |variable: &str| Link { variables: vec![variable.to_owned()], ..init(Program::Tini, "tini -- x") };
        let dumb_init = |command| init(Program::DumbInit, command);
        let shell = || shell(7, "bash x");
        let wait = || link(8, Program::Other, "setsid -w sidekiq");
        let table: &[(&str, Path, Fate)] = &[
            ("its own", path_to(elsewhere(), &[init(Program::Tini, "tini -g -- x"), trap(7), wait()]), Lost),
            ("that of the child", path(&[init(Program::Tini, "tini -g -- x"), trap(7)]), Arrives),
            ("dumb-init, its own", path_to(elsewhere(), &[dumb_init("dumb-init -r 20:20 x"), trap(7), wait()]), Lost),
            ("by variable", path(&[tini("TINI_KILL_PROCESS_GROUP="), shell()]), CutShort),
            ("no variable", path(&[tini("TINI_VERBOSITY=1"), shell()]), Lost),
            (
                "not, by variable",
                path(&[Link { variables: vec!["DUMB_INIT_SETSID=0".to_owned()], ..dumb_init("dumb-init x") }, shell()]),
                Lost,
            ),
        ];
        for (name, path, fate) in table {
            assert_eq!(path.fate(Asked::Stop).0, *fate, "{name}");
        }
    }

    fn run_link(command: &str) -> Link {
        let run = init(Program::Run, &format!("sidekiq-lifecycle {command}"));
        Link { kills_after: wrappers::kills_after(Program::Run, &run.arguments, None), ..run }
    }

    #[test]
    fn who_kills_before_sidekiq_is_done() {
        use Fate::{Arrives, CutShort, Lost, Unknown};
        let timeout = |seconds| Link {
            term: Handling::Handled,
            kills_after: Some(seconds),
            ..link(7, Program::Timeout, "timeout -k 3 1h x")
        };
        let tini = || init(Program::Tini, "tini -- x");
        let carried = || Link { is_relayed: true, ..shell(6, "sh x") };
        let told = || vec![Asked::Stop];
        let run = |command, is_told: bool| {
            let (above, below) = if is_told { (told(), Vec::new()) } else { (Vec::new(), told()) };
            let worker = Link { told_by_run: below, ..worker() };
            path_to(worker, &[run_link(command), Link { told_by_run: above, ..timeout(3.0) }])
        };
        let runsvdir = |command| {
            let runsvdir = Link { told_by_run: told(), ..init(Program::Runsvdir, "runsvdir") };
            path_to(Link { told_by_run: Vec::new(), ..worker() }, &[run_link(command), runsvdir])
        };
        for (name, path, needed, fate) in [
            ("in time", path(&[tini(), timeout(12.0)]), Some(12.0), Arrives),
            ("too early", path(&[tini(), timeout(3.0)]), Some(12.0), CutShort),
            ("nobody knows", path(&[tini(), timeout(3.0)]), None, Unknown),
            ("not told, by run", run("run -- x", false), Some(12.0), Arrives),
            ("told by run", run("run -- x", true), Some(12.0), CutShort),
            ("run in time", run("run --stop-grace 12 -- x", false), Some(12.0), Arrives),
            ("run too early", run("run --stop-grace 11 -- x", false), Some(12.0), CutShort),
            ("outlives the command", runsvdir("run -- x"), Some(12.0), Arrives),
            ("does not outlive it", runsvdir("run --grace 3 -- x"), Some(12.0), Lost),
            ("not told, by the relay", path(&[tini(), carried(), timeout(3.0)]), Some(12.0), Arrives),
        ] {
            assert_eq!(path.with_needed(needed).fate(Asked::Stop).0, fate, "{name}");
        }
    }

    #[test]
    fn who_is_taken_by_the_relay() {
        let person = Link { is_interactive: true, has_terminal: true, ..shell(5, "bash") };
        let supervisor = Link { threads: 5, ..link(6, Program::Other, "envconsul") };
        let handling = |pid, command: &str| Link { term: Handling::Handled, ..link(pid, Program::Other, command) };
        let table: &[(Vec<Link>, &[i32])] = &[
            (vec![], &[]),
            (vec![init(Program::Tini, "tini -- x")], &[]),
            (vec![init(Program::Tini, "tini -- x"), trap(7)], &[7]),
            (vec![shell(1, "sh x"), init(Program::Tini, "tini -- x"), shell(8, "sh y")], &[8, 1]),
            (vec![init(Program::DumbInit, "dumb-init x")], &[1]),
            (vec![init(Program::DumbInit, "dumb-init -r 20:20 x"), shell(8, "sh")], &[8]),
            (vec![init(Program::DumbInit, "dumb-init -c x"), shell(8, "sh")], &[8]),
            (vec![init(Program::Catatonit, "catatonit x"), shell(8, "sh")], &[8]),
            (vec![init(Program::Run, "sidekiq-lifecycle run x"), shell(8, "sh")], &[]),
            (vec![init(Program::Manager, "systemd"), person, supervisor, shell(8, "sh")], &[8, 6]),
            (vec![init(Program::Tini, "tini"), Link { is_interactive: true, ..shell(8, "bash -ic 'x'") }], &[8]),
            (vec![link(1, Program::Other, "python3 main.py")], &[1]),
            // To wait at their end.
            (vec![handling(1, "puma 6.6.0 (unix:///tmp/puma)")], &[1]),
            (vec![init(Program::Tini, "tini -- x"), handling(7, "puma"), shell(8, "sh")], &[8, 7]),
            (vec![init(Program::Tini, "tini -- x"), shell(7, "sh"), handling(8, "puma")], &[7]),
            (vec![Link { term: Handling::Blocked, ..handling(1, "python3 main.py") }], &[]),
            (vec![Link { threads: 0, ..handling(1, "a hidden process") }], &[]),
            (vec![handling(1, "'sidekiq 7.3.2 app [0 of 5 busy]'")], &[]),
        ];
        for (links, expected) in table {
            assert_eq!(path(links).to_be_relayed(), *expected, "{links:?}");
        }
    }

    #[test]
    fn whose_end_ends_all() {
        let path = path(&[shell(1, "sh"), link(7, Program::Tini, "tini -s -- x"), shell(8, "sh"), shell(9, "sh")]);
        let ends_all: Vec<bool> = (1..5).map(|index| path.ends_all(index)).collect();
        assert_eq!(ends_all, [false, true, false, true]);
    }

    #[test]
    fn a_service_of_systemd() {
        let links = [init(Program::Manager, "/sbin/init"), shell(7, "bash /app/entry.sh")];
        let table = [
            (None, Fate::Unknown),
            (KillMode::named("none"), Fate::Unknown),
            (KillMode::named("control-group"), Fate::Arrives),
            (KillMode::named("mixed"), Fate::Lost),
            (KillMode::named("process"), Fate::Lost),
        ];
        for (kill_mode, fate) in table {
            assert_eq!(path(&links).with_kill_mode(kill_mode).fate(Asked::Stop).0, fate, "{kill_mode:?}");
        }
        let handled = |program, kills_after| Link { term: Handling::Handled, kills_after, ..link(7, program, "x") };
        for (link, fate) in [
            (handled(Program::Su, Some(2.0)), Fate::CutShort),
            (handled(Program::Sudo, None), Fate::Arrives),
            (handled(Program::Foreman, None), Fate::Unknown),
            (link(7, Program::Other, "perl"), Fate::Arrives),
        ] {
            let path = path(&[init(Program::Manager, "/sbin/init"), link.clone()]).with_needed(Some(12.0));
            assert_eq!(path.with_kill_mode(KillMode::named("control-group")).fate(Asked::Stop).0, fate, "{link:?}");
        }
        let container = path(&[shell(1, "sh")]).with_kill_mode(KillMode::named("control-group"));
        assert_eq!(container.fate(Asked::Stop).0, Fate::Lost);
    }

    #[test]
    fn pid_1_of_a_container_seen_from_its_host() {
        let seen = Link { is_first: true, is_pid1: true, ..shell(4711, "sh -c 'sidekiq'") };
        assert_eq!(path(std::slice::from_ref(&seen)).fate(Asked::Stop), (Fate::Lost, 1));
        assert!(seen.verdict(Asked::Stop).starts_with("drops TERM: it is PID 1 of its container and has no handler"));
    }

    #[test]
    fn what_was_started_beside_pid_1() {
        let first = |link| Link { is_first: true, ..link };
        let lone = Path::new(vec![first(worker())]);
        let below = Path::new(vec![worker(), first(shell(50, "sh -c 'x'"))]);
        for path in [lone, below] {
            assert_eq!((path.fate(Asked::Stop).0, path.fate(Asked::Quiet).0), (Fate::Lost, Fate::Lost));
            assert_eq!(path.problem().as_deref(), path.beside());
            assert!(path.fix().unwrap().starts_with("start it as the container's command"));
        }
        assert_eq!(path(&[shell(1, "sh")]).beside(), None);
    }

    #[test]
    fn the_shortest_fix() {
        let table: &[(Link, &str)] = &[
            (shell(1, "/bin/sh -c 'bundle exec sidekiq'"), "write CMD [\"bundle\", \"exec\", \"sidekiq\"],"),
            (
                shell(1, "busybox sh -c 'cd / && sidekiq'"),
                "put exec before the command that starts Sidekiq in `cd / && sidekiq`",
            ),
            (
                shell(1, "sh -c 'A=b sidekiq'"),
                "put exec before the command that starts Sidekiq in `A=[hidden] sidekiq`",
            ),
            (shell(1, "bash -eu -o pipefail /app/entry.sh"), "the last one of /app/entry.sh,"),
            (shell(1, "bash -eo pipefail -c 'x; y'"), "in `x; y`"),
            (shell(1, "bash"), "put exec before the command that starts Sidekiq, or"),
            (init(Program::DumbInit, "dumb-init sidekiq"), "dumb-init --rewrite 20:20"),
            (init(Program::Catatonit, "catatonit -- sidekiq"), "write sidekiq-lifecycle run -- in place of catatonit"),
            (link(1, Program::Other, "python3 main.py"), "let python3 pass signals on, or put sidekiq-lifecycle run"),
            (
                Link { term: Handling::Handled, kills_after: Some(2.0), ..link(1, Program::Su, "su app -c x") },
                "write setpriv in place of su, which leaves no process between, or put",
            ),
            (
                Link { term: Handling::Handled, ..link(1, Program::Foreman, "foreman") },
                "start Sidekiq without foreman, or put sidekiq-lifecycle run -- in front of it",
            ),
        ];
        for (link, expected) in table {
            let fix = path(std::slice::from_ref(link)).fix_in_full().unwrap();
            assert!(fix.contains(expected), "{fix}");
        }
        assert_eq!(path(&[init(Program::Tini, "tini -- sidekiq")]).fix(), None);
        let below_run = |command, link: Link| {
            let told = Link { told_by_run: vec![Asked::Stop, Asked::Quiet], ..link };
            path_to(Link { told_by_run: Vec::new(), ..worker() }, &[run_link(command), told])
        };
        for (path, expected) in [
            (
                path(&[Link { is_free: true, ..trap(1) }]),
                "try it with sidekiq-lifecycle doctor -- in front of it, or leave",
            ),
            (below_run("run -- x", Link { is_free: true, ..trap(7) }), "try it with sidekiq-lifecycle doctor --"),
            (
                below_run("run --grace 3 -- x", init(Program::Runsvdir, "runsvdir")),
                "give sidekiq-lifecycle run a --grace of at least 12 s",
            ),
            (
                path_to(worker(), &[run_link("run --stop-grace 5 -- x")]),
                "give sidekiq-lifecycle run a --stop-grace of at least 12 s, or none",
            ),
            (below_run("run -- x", init(Program::Foreman, "foreman")), "start Sidekiq without foreman"),
        ] {
            let fix = path.with_needed(Some(12.0)).fix().unwrap();
            assert!(fix.starts_with(expected), "{fix}");
            assert!(!fix.contains("put sidekiq-lifecycle run"), "{fix}");
        }
    }

    #[test]
    fn a_fix_that_anybody_may_read_has_nothing_of_a_command_line() {
        let in_line = "put exec before the command that starts Sidekiq in `sh -c '…'`, or put sidekiq-lifecycle run -- in front of it";
        for (link, expected) in [
            (shell(1, "sh -c 'bundle exec sidekiq'"), in_line),
            (shell(1, "sh -c 'sidekiq -r redis://u:hunter2@h'"), in_line),
            (shell(1, "sh -c 'TOKEN=hunter2 sidekiq; true'"), in_line),
            (
                shell(1, "sh /app/entry.sh hunter2"),
                "put exec before the command that starts Sidekiq, the last one of /app/entry.sh, or put sidekiq-lifecycle run -- in front of it",
            ),
            (
                shell(1, "sh TOKEN=hunter2"),
                "put exec before the command that starts Sidekiq, or put sidekiq-lifecycle run -- in front of it",
            ),
        ] {
            assert_eq!(path(std::slice::from_ref(&link)).fix().as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_wrong() {
        let table: &[(Link, Option<&str>)] = &[
            (
                shell(1, "sh -c 'sidekiq'"),
                Some(
                    "a SIGTERM sent to sh (pid 1) is lost: sh (pid 1) drops TERM: it is PID 1 and has no handler for it \
                     (bit 15 of SigCgt is not set)",
                ),
            ),
            (
                init(Program::DumbInit, "dumb-init sidekiq"),
                Some(
                    "a SIGTSTP sent to dumb-init (pid 1) freezes Sidekiq: dumb-init (pid 1) turns TSTP into SIGSTOP, for \
                     itself and for all below it",
                ),
            ),
            (init(Program::Tini, "tini -- sidekiq"), None),
            (Link { term: Handling::Handled, ..link(1, Program::Other, "foreman start") }, None),
        ];
        for (link, problem) in table {
            assert_eq!(path(std::slice::from_ref(link)).problem().as_deref(), *problem);
        }
    }

    #[test]
    fn every_verdict_is_a_sentence() {
        for link in [
            shell(1, "sh"),
            shell(7, "sh"),
            trap(7),
            Link { is_free: true, ..trap(7) },
            init(Program::Tini, "tini x"),
            init(Program::DumbInit, "dumb-init x"),
            init(Program::Catatonit, "catatonit x"),
            init(Program::Manager, "systemd"),
            init(Program::Runsvdir, "runsvdir"),
            init(Program::Foreman, "foreman"),
            init(Program::Supervisord, "supervisord"),
            Link { kills_after: Some(2.0), ..init(Program::Su, "su") },
            link(7, Program::Other, "x"),
        ] {
            for (asked, name) in [(Asked::Stop, "TERM"), (Asked::Quiet, "TSTP")] {
                let verdict = link.verdict(asked);
                assert!(verdict.contains(name) || link.program == Program::Manager, "{verdict}");
            }
        }
    }
}
