//! One process of the path: what it is, and what it does with a signal.

use serde::Serialize;

use crate::model::program::Program;

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
    pub signalled_by_run: Vec<Request>,
    /// Its traps [run at once](crate::model::shell_traps), because the next link runs in its background.
    pub child_in_background: bool,
    /// How many threads it has.
    pub threads: u32,
    /// The relay forwards signals past it.
    pub is_relayed: bool,
}

/// The two signals that the path is examined for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Request {
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

impl Link {
    /// What it does with a signal, if it is not Sidekiq itself.
    #[must_use]
    pub fn effect(&self, request: Request) -> Effect {
        let handling = self.handling(request);
        let decides = self.program == Program::Shell && self.child_in_background && handling == Handling::Handled;
        if self.is_bypassed() && !decides {
            return Effect::Relayed;
        }
        match (self.program, request) {
            (Program::Run, _) => return Effect::Forwards,
            (Program::Manager, _) => return Effect::Unknown,
            (Program::DumbInit, _) if self.is_single_child() => return Effect::Forwards,
            (Program::DumbInit, Request::Quiet) if !self.rewrites_tstp() => return Effect::Freezes,
            (Program::DumbInit, _) => return Effect::ForwardsToGroup,
            (Program::Tini, _) if self.signals_group() => return Effect::ForwardsToGroup,
            (Program::Catatonit, Request::Quiet) => return Effect::Drops,
            (Program::Tini | Program::Catatonit, _) => return Effect::Forwards,
            _ => {}
        }
        match (handling, self.program, request) {
            (Handling::Ignored, ..) => Effect::Drops,
            (Handling::Handled, Program::Shell, _) if decides => Effect::Traps,
            (Handling::Handled, Program::Shell, _) => Effect::Defers,
            (Handling::Blocked, Program::Shell | Program::Timeout, _) => Effect::Drops,
            (Handling::Handled | Handling::Blocked, Program::Runsvdir, Request::Stop) => Effect::Leaves,
            (Handling::Handled | Handling::Blocked, _, Request::Stop) if self.kills_after.is_some() => Effect::Kills,
            (
                Handling::Handled | Handling::Blocked,
                Program::Timeout | Program::Runsv | Program::S6Svscan | Program::S6Supervise,
                Request::Stop,
            )
            | (Handling::Handled | Handling::Blocked, Program::Sudo, _) => Effect::Forwards,
            (Handling::Handled | Handling::Blocked, ..) => Effect::Unknown,
            (Handling::Default, ..) if self.is_pid1 => Effect::Drops,
            (Handling::Default, _, Request::Stop) => Effect::Dies,
            (Handling::Default, _, Request::Quiet) => Effect::Stops,
        }
    }

    pub(super) fn handling(&self, request: Request) -> Handling {
        match request {
            Request::Stop => self.term,
            Request::Quiet => self.tstp,
        }
    }

    /// Whether a person uses it: an interactive shell at a terminal that was not given a command to run.
    #[must_use]
    pub fn is_used_by_person(&self) -> bool {
        self.program == Program::Shell && self.is_interactive && self.has_terminal && self.was_given_nothing_to_run()
    }

    /// Whether the relay forwards signals past it, instead of only making [its exit wait](super::Path::can_be_held).
    #[must_use]
    pub fn is_bypassed(&self) -> bool {
        self.is_relayed && self.can_be_relayed()
    }

    /// Whether the relay may forward signals past it: a shell that no person uses, timeout(1), dumb-init where it
    /// would suspend Sidekiq, or a program that does not handle TERM. Anything else handles signals in its own way.
    #[must_use]
    pub fn can_be_relayed(&self) -> bool {
        match self.program {
            Program::Shell => !self.is_used_by_person(),
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
    pub fn verdict(&self, request: Request) -> String {
        let (signal, number) = match request {
            Request::Stop => ("TERM", 15),
            Request::Quiet => ("TSTP", 20),
        };
        match self.effect(request) {
            Effect::Arrives => "is Sidekiq".to_owned(),
            Effect::Forwards if self.program == Program::Run => format!("forwards {signal} to Sidekiq itself"),
            Effect::Forwards => format!("forwards {signal} to its child"),
            Effect::ForwardsToGroup => format!("forwards {signal} to its whole group"),
            Effect::Relayed => format!("is bypassed by the relay, which forwards {signal}"),
            Effect::Drops if self.program == Program::Catatonit && request == Request::Quiet => {
                format!("drops {signal}, as it always does")
            }
            Effect::Drops if self.is_pid1 && self.handling(request) == Handling::Default => {
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
            Effect::Unknown if request == Request::Stop && self.program == Program::Foreman => {
                "forwards TERM, and kills what has not ended after its --timeout (5 s by default)".to_owned()
            }
            Effect::Unknown if request == Request::Stop && self.program == Program::Supervisord => {
                "forwards TERM, and kills a program after its stopwaitsecs (10 by default)".to_owned()
            }
            Effect::Unknown if self.is_relayed && request == Request::Stop => {
                format!(
                    "handles {signal} in a way that is not visible; the relay delays its exit until Sidekiq has ended"
                )
            }
            Effect::Unknown => format!("handles {signal} in a way that is not visible"),
        }
    }

    /// tini's and dumb-init's own options come before the command, or before `--`. Few of theirs take a value.
    pub(super) fn own_options(&self) -> impl Iterator<Item = &str> {
        let mut is_value = false;
        self.arguments.iter().skip(1).map(String::as_str).take_while(move |word| {
            let is_option = is_value || (word.starts_with('-') && *word != "--");
            is_value = !is_value && matches!(*word, "-p" | "-e" | "-r" | "--rewrite");
            is_option
        })
    }

    pub(super) fn has_flag(&self, short: char, long: Option<&str>) -> bool {
        self.own_options().any(|word| {
            Some(word) == long
                || word.strip_prefix('-').is_some_and(|flags| !flags.starts_with('-') && flags.contains(short))
        })
    }

    /// tini signals its child's process group (`tini.c`).
    pub(super) fn signals_group(&self) -> bool {
        self.has_flag('g', None)
            || self.variables.iter().any(|variable| variable.starts_with("TINI_KILL_PROCESS_GROUP="))
    }

    /// dumb-init signals only its child, instead of the whole session (`dumb-init.c`).
    pub(super) fn is_single_child(&self) -> bool {
        self.has_flag('c', Some("--single-child"))
            || self.variables.iter().any(|variable| variable.starts_with("DUMB_INIT_SETSID=0"))
    }

    pub(super) fn rewrites_tstp(&self) -> bool {
        self.own_options().any(|word| word.trim_start_matches("--rewrite=").starts_with("20:"))
    }

    /// For people: `sh (pid 1)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} (pid {})", self.name, self.pid)
    }
}
