//! The signal path: the chain of processes between the process that the platform signals (the container's or the
//! service's main process) and Sidekiq, and what each link does with a signal.
//!
//! Why a signal is lost: PID 1 of a namespace gets no signal that it has no handler for (`pid_namespaces(7)`); any
//! other shell dies of it, and often the container with it; and a shell with a trap runs it only after its foreground
//! command has ended (`sh(1)`, POSIX 2.11).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::program::{Program, Sidekiq};

pub use link::{Effect, Handling, Link, Request};

mod advice;
mod link;
#[cfg(test)]
mod tests;
mod walk;

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
                link.is_machines
                    || link.program == Program::Manager
                    || (link.is_used_by_person() && !path.ends_all(*index))
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
    pub fn is_used_by_person(&self) -> bool {
        self.links.len() > 1
            && self.links.last().is_some_and(|top| top.is_used_by_person() && !self.ends_all(self.links.len() - 1))
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
    pub fn effect(&self, index: usize, request: Request) -> Effect {
        match self.links.get(index) {
            Some(link) if index > 0 => link.effect(request),
            _ => Effect::Arrives,
        }
    }

    /// The pids that the relay should trace, if it is needed at all: to forward signals past them, or to delay their
    /// exit.
    #[must_use]
    pub fn to_be_relayed(&self) -> Vec<i32> {
        let is_needed =
            [Request::Stop, Request::Quiet].into_iter().any(|request| self.fate(request).0 != Fate::Arrives);
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
        [(Request::Stop, "SIGTERM"), (Request::Quiet, "SIGTSTP")].into_iter().find_map(|(request, signal)| {
            let (fate, index) = self.fate(request);
            // Below a supervisor with its own procedure, TSTP is not expected to pass.
            let is_expected =
                request == Request::Stop || fate == Fate::Freezes || self.fate(Request::Stop).0 == Fate::Arrives;
            let link = self.links.get(index).filter(|_| fate.is_bad() && is_expected)?;
            let verdict = link.verdict(request);
            Some(format!("a {signal} sent to {} {fate}: {} {verdict}", top.title(), link.title()))
        })
    }

    /// Why it is unknown whether TERM arrives, in words; `None` if it is known.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let (fate, index) = self.fate(Request::Stop);
        let link = self.links.get(index).filter(|_| fate == Fate::Unknown)?;
        let (top, verdict) = (self.links.last()?.title(), link.verdict(Request::Stop));
        Some(format!("a SIGTERM sent to {top} may not arrive: {} {verdict}", link.title()))
    }
}
