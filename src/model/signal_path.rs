//! The signal path: the chain of processes between the process that the platform signals (the container's or the
//! service's main process) and Sidekiq, and what each link does with a signal.
//!
//! Why a signal is lost: PID 1 of a namespace gets no signal that it has no handler for (`pid_namespaces(7)`); any
//! other shell dies of it, and often the container with it; and a shell with a trap runs it only after its foreground
//! command has ended (`sh(1)`, POSIX 2.11).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::program::{Program, Sidekiq};

mod fix;
#[cfg(test)]
mod tests;
mod walk;

/// What a process does with one signal, according to its masks in /proc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handling {
    /// The default action.
    #[default]
    Default,
    /// Ignored.
    Ignored,
    /// It has a handler.
    Handled,
    /// It is blocked: an init receives it with sigwait(3) or signalfd(2); any other program never does.
    Blocked,
}

/// One process of the chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Link {
    /// Its process id.
    pub pid: i32,
    /// Which kind of program it is.
    pub program: Program,
    /// Its name, for people.
    pub name: String,
    /// Its command line.
    pub arguments: Vec<String>,
    /// Its parent is outside of its PID namespace, or it has none: the container ends with it.
    pub is_first: bool,
    /// It is PID 1 of its PID namespace, whatever its pid looks like from outside.
    pub is_pid1: bool,
    /// What it does with TERM.
    pub term: Handling,
    /// What it does with TSTP.
    pub tstp: Handling,
    /// A shell that ignores the terminal's stop signals and TERM, as interactive shells do.
    pub is_interactive: bool,
    /// It has a controlling terminal.
    pub has_terminal: bool,
    /// Its process group.
    pub group: i32,
    /// The variables of its environment that configure an init: `TINI_…`, `DUMB_INIT_…`.
    pub variables: Vec<String>,
    /// Seconds between the TERM that it forwards and its SIGKILL (see [`wrappers`](crate::model::wrappers)).
    pub kills_after: Option<f64>,
    /// It is the init of the machine: PID 1 of the first PID namespace.
    pub is_machines: bool,
    /// The signals that `run`, above it, sends it (see [`reach`](crate::model::recipients::reach)).
    pub told_by_run: Vec<Asked>,
    /// Its traps [run at once](crate::model::shell_traps), because the next link runs in its background.
    pub is_free: bool,
    /// How many threads it has.
    pub threads: u32,
    /// The relay forwards signals past it.
    pub is_relayed: bool,
}

/// The two signals that the path is examined for.
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
    /// It forwards the signal, and waits for the process it has sent it to.
    Forwards,
    /// It forwards the signal to its whole process group or session.
    ForwardsToGroup,
    /// The relay forwards the signal past it.
    Relayed,
    /// The signal has no effect at all.
    Drops,
    /// It dies of the signal, and forwards nothing.
    Dies,
    /// The signal suspends it, and it forwards nothing.
    Stops,
    /// It suspends itself and everything below it, with SIGSTOP.
    Freezes,
    /// A trap, which runs only after the foreground command has ended.
    Defers,
    /// A trap, which runs at once; what it does is not visible.
    Traps,
    /// It forwards the signal, and kills what has not ended some seconds later.
    Kills,
    /// It exits at once, and forwards nothing.
    Leaves,
    /// A handler, or a supervisor's own procedure; what it does is not visible.
    Unknown,
}

/// What becomes of a signal that is sent to the first link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It reaches Sidekiq, which has enough time.
    Arrives,
    /// It reaches Sidekiq, but a link exits or kills before Sidekiq has finished.
    CutShort,
    /// It never reaches Sidekiq.
    Lost,
    /// It arrives as SIGSTOP: Sidekiq is suspended.
    Freezes,
    /// It is not visible from outside.
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
            Self::CutShort => "arrives, but Sidekiq is killed before it has finished",
            Self::Lost => "is lost",
            Self::Freezes => "freezes Sidekiq",
            Self::Unknown => "may not arrive",
        })
    }
}

/// Which processes systemd signals when it stops a service (`systemd.kill(5)`, KillMode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// Every process of the service; systemd waits for all of them.
    ControlGroup,
    /// The main process; whatever is left when that has ended is killed.
    Mixed,
    /// Only the main process.
    Process,
}

impl KillMode {
    /// By systemd's name; `None` for `none`, which sends nothing.
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
    /// How systemd stops the service, if systemd was queried.
    kill_mode: Option<KillMode>,
    /// Seconds that Sidekiq needs to stop, if known.
    needed: Option<f64>,
    /// It starts beside PID 1 of its container, as with `docker exec`: stopping the container does not signal it.
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

    /// Whether a person uses it: an interactive shell at a terminal that was not given a command to run.
    #[must_use]
    pub fn is_persons(&self) -> bool {
        self.program == Program::Shell && self.is_interactive && self.has_terminal && self.was_given_nothing_to_run()
    }

    /// Whether the relay forwards signals past it, instead of only making [its exit wait](Path::can_be_held).
    #[must_use]
    pub fn is_carried(&self) -> bool {
        self.is_relayed && self.can_be_relayed()
    }

    /// Whether the relay may forward signals past it: a shell that no person uses, timeout(1), dumb-init where it
    /// would suspend Sidekiq, or a program that does not handle TERM. Anything else handles signals in its own way.
    #[must_use]
    pub fn can_be_relayed(&self) -> bool {
        match self.program {
            Program::Shell => !self.is_persons(),
            Program::Timeout => true,
            Program::DumbInit => !self.is_single_child() && !self.rewrites_tstp(),
            // These receive their signals with sigwait(3) and signalfd(2), which no tracer sees.
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
            Effect::Forwards if self.program == Program::Run => format!("forwards {signal} to Sidekiq itself"),
            Effect::Forwards => format!("forwards {signal} to its child"),
            Effect::ForwardsToGroup => format!("forwards {signal} to its whole group"),
            Effect::Relayed => format!("is bypassed by the relay, which forwards {signal}"),
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
            Effect::Dies => format!("dies of {signal} and forwards nothing (bit {number} of SigCgt is not set)"),
            Effect::Stops => {
                format!("is suspended by {signal} and forwards nothing (bit {number} of SigCgt is not set)")
            }
            Effect::Freezes => format!("turns {signal} into SIGSTOP for itself and everything below it"),
            Effect::Defers => format!("has a trap for {signal} that runs only after its foreground command has ended"),
            Effect::Traps => format!("has a trap for {signal} that runs at once; what it does is not visible"),
            Effect::Kills => {
                let seconds = self.kills_after.unwrap_or_default();
                format!("forwards {signal}, and kills what has not ended {seconds} s later")
            }
            Effect::Leaves => format!("exits at once on {signal}, and forwards nothing"),
            Effect::Unknown if self.program == Program::Manager => "stops its services in its own way".to_owned(),
            Effect::Unknown if asked == Asked::Stop && self.program == Program::Foreman => {
                "forwards TERM, and kills what has not ended after its --timeout (5 s by default)".to_owned()
            }
            Effect::Unknown if asked == Asked::Stop && self.program == Program::Supervisord => {
                "forwards TERM, and kills a program after its stopwaitsecs (10 by default)".to_owned()
            }
            Effect::Unknown if self.is_relayed && asked == Asked::Stop => {
                format!(
                    "handles {signal} in a way that is not visible; the relay delays its exit until Sidekiq has ended"
                )
            }
            Effect::Unknown => format!("handles {signal} in a way that is not visible"),
        }
    }

    /// tini's and dumb-init's own options come before the command, or before `--`. Few of theirs take a value.
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

    /// dumb-init signals only its child, instead of the whole session (`dumb-init.c`).
    fn is_single_child(&self) -> bool {
        self.has_flag('c', Some("--single-child"))
            || self.variables.iter().any(|variable| variable.starts_with("DUMB_INIT_SETSID=0"))
    }

    fn rewrites_tstp(&self) -> bool {
        self.own_options().any(|word| word.trim_start_matches("--rewrite=").starts_with("20:"))
    }
}

impl Path {
    /// The path from Sidekiq (the first of `links`) upwards. It ends at the init of a machine, systemd, or a shell
    /// that a person uses: signals come from there, not from further up. The exception is a person's shell that is
    /// the command of a container.
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

    /// The path of a service that systemd stops in this way. It has no effect unless systemd is at the top of the
    /// path, instead of a container's PID 1.
    #[must_use]
    pub fn with_kill_mode(self, kill_mode: Option<KillMode>) -> Self {
        let is_service = self.links.last().is_some_and(|top| top.program == Program::Manager);
        Self { kill_mode: kill_mode.filter(|_| is_service), ..self }
    }

    /// The path of a Sidekiq that needs this many seconds to stop: a link may leave it less.
    #[must_use]
    pub fn with_needed(self, needed: Option<f64>) -> Self {
        Self { needed, ..self }
    }

    /// How systemd stops the service, if systemd was queried.
    #[must_use]
    pub fn kill_mode(&self) -> Option<KillMode> {
        self.kill_mode
    }

    /// Whether a person stops this Sidekiq, and waits for it.
    #[must_use]
    pub fn is_persons(&self) -> bool {
        self.links.len() > 1
            && self.links.last().is_some_and(|top| top.is_persons() && !self.ends_all(self.links.len() - 1))
    }

    /// The path as it would be without a relay.
    #[must_use]
    pub fn without_relay(mut self) -> Self {
        self.links.iter_mut().for_each(|link| link.is_relayed = false);
        self
    }

    /// The links, Sidekiq first.
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

    /// The pids that the relay should trace, if it is needed at all: to forward signals past them, or to delay their
    /// exit.
    #[must_use]
    pub fn to_be_relayed(&self) -> Vec<i32> {
        let is_needed = [Asked::Stop, Asked::Quiet].into_iter().any(|asked| self.fate(asked).0 != Fate::Arrives);
        let is_taken = |index: usize, link: &Link| link.can_be_relayed() || self.can_be_held(index);
        let links = self.links.iter().enumerate().skip(1).filter(|(index, link)| is_needed && is_taken(*index, link));
        links.map(|(_, link)| link.pid).collect()
    }

    /// Whether a link is a program that handles TERM, and whose exit would kill everything that still runs: Puma with
    /// a Sidekiq below it, a supervisor. The relay lets the program decide, and makes its exit wait for Sidekiq. That
    /// does not ensure that the signal arrives: the program may never exit.
    #[must_use]
    pub fn can_be_held(&self, index: usize) -> bool {
        let is_program = |link: &Link| {
            let is_sidekiq = Sidekiq::of(&link.name, None, &link.arguments).is_some();
            link.program == Program::Other && link.term == Handling::Handled && !is_sidekiq && link.threads > 0
        };
        self.links.get(index).is_some_and(is_program) && self.ends_all(index)
    }

    /// Whether the container, or the init in its place, ends with this link, so that whatever still runs is killed.
    #[must_use]
    pub fn ends_all(&self, index: usize) -> bool {
        let is_first = self.links.get(index).is_some_and(|link| link.is_first);
        is_first || self.links.get(index + 1).is_some_and(|parent| parent.program.ends_with_first_child())
    }

    /// What is wrong if the signals to a container do not reach this path at all.
    #[must_use]
    pub fn beside(&self) -> Option<&'static str> {
        self.is_beside.then_some(
            "Sidekiq was started beside PID 1 of its container (docker exec), so stopping the container signals PID 1 and never Sidekiq",
        )
    }

    /// What is certainly wrong with the path, in words: first TERM, because that loses jobs. `None` if nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let top = self.links.last()?;
        if let Some(beside) = self.beside() {
            return Some(beside.to_owned());
        }
        [(Asked::Stop, "SIGTERM"), (Asked::Quiet, "SIGTSTP")].into_iter().find_map(|(asked, signal)| {
            let (fate, index) = self.fate(asked);
            // Below a supervisor with its own procedure, TSTP is not expected to pass.
            let is_expected =
                asked == Asked::Stop || fate == Fate::Freezes || self.fate(Asked::Stop).0 == Fate::Arrives;
            let link = self.links.get(index).filter(|_| fate.is_bad() && is_expected)?;
            let verdict = link.verdict(asked);
            Some(format!("a {signal} sent to {} {fate}: {} {verdict}", top.title(), link.title()))
        })
    }

    /// Why it is unknown whether TERM arrives, in words; `None` if it is known.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let (fate, index) = self.fate(Asked::Stop);
        let link = self.links.get(index).filter(|_| fate == Fate::Unknown)?;
        let (top, verdict) = (self.links.last()?.title(), link.verdict(Asked::Stop));
        Some(format!("a SIGTERM sent to {top} may not arrive: {} {verdict}", link.title()))
    }
}

impl Link {
    /// For people: `sh (pid 1)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} (pid {})", self.name, self.pid)
    }
}
