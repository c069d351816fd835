//! What to change: the shortest way to a path that loses nothing.

use super::{Effect, Fate, Link, Path, Request};
use crate::model::program::Program;
use crate::model::text::masked;

impl Path {
    /// The shortest way to a path that loses nothing; `None` if this one does not. It contains nothing of a command
    /// line, because it goes to logs and to files that others may read.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        self.shortest_fix(false)
    }

    /// The same with text to paste, for a user of the doctor. Possible secrets are hidden there, too.
    #[must_use]
    pub fn fix_in_full(&self) -> Option<String> {
        self.shortest_fix(true)
    }

    fn shortest_fix(&self, in_full: bool) -> Option<String> {
        if self.is_beside {
            return Some("start it as the container's command, or in its own container".to_owned());
        }
        let culprit = |request| match self.fate(request) {
            (Fate::Arrives, _) => None,
            (_, index) => self.links.get(index).map(|link| (link, index, request)),
        };
        let (link, index, request) = culprit(Request::Stop).or_else(|| culprit(Request::Quiet))?;
        let is_below_run = self.links.iter().skip(index + 1).any(|above| above.program == Program::Run);
        // This helps almost always.
        let or_run = if is_below_run { "" } else { ", or put sidekiq-lifecycle run -- in front of it" };
        let (name, needed) = (&link.name, self.needed_in_words());
        Some(match (link.program, request, link.effect(request)) {
            (_, Request::Stop, Effect::Dies | Effect::Leaves) if is_below_run => {
                format!("give sidekiq-lifecycle run a --grace of at least {needed}")
            }
            // With `run` in front, the trap decides as well.
            (Program::Shell, _, Effect::Traps) => {
                "remove the trap and put exec before the command that starts Sidekiq, or test it with sidekiq-lifecycle \
                 doctor -- in front of it"
                    .to_owned()
            }
            (Program::Shell, ..) => format!("{}{or_run}", link.fix_shell(in_full)),
            (Program::DumbInit, Request::Quiet, _) => {
                "write dumb-init --rewrite 20:20, or replace it with sidekiq-lifecycle run --".to_owned()
            }
            (Program::Tini | Program::DumbInit | Program::Catatonit, ..) => {
                format!("replace {name} with sidekiq-lifecycle run --")
            }
            (Program::Run, ..) => format!("give sidekiq-lifecycle run a --stop-grace of at least {needed}, or none"),
            (Program::Timeout, ..) => format!("remove timeout from the command that starts Sidekiq{or_run}"),
            (Program::Su, ..) => format!("replace {name} with setpriv, which leaves no process in between{or_run}"),
            (Program::Foreman, ..) => format!("start Sidekiq without foreman{or_run}"),
            (Program::Supervisord, Request::Stop, _) => format!("set stopwaitsecs of the program to at least {needed}"),
            (Program::S6Supervise, Request::Stop, _) => {
                "set the service's timeout-kill to 0 (no limit)".to_owned()
            }
            (Program::Init, ..) => "replace init with sidekiq-lifecycle run --".to_owned(),
            _ => format!("make {name} forward signals{or_run}"),
        })
    }

    fn needed_in_words(&self) -> String {
        self.needed
            .map_or_else(|| "the time that Sidekiq needs (-t plus 4 s)".to_owned(), |needed| format!("{needed} s"))
    }
}

impl Link {
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
                format!("put exec before the command that starts Sidekiq, the last one in {script}")
            }
            ShellCommand::Script(_) | ShellCommand::Hidden => {
                "put exec before the command that starts Sidekiq".to_owned()
            }
        }
    }

    /// Whether a shell has neither a command line nor a script to run.
    pub(super) fn was_given_nothing_to_run(&self) -> bool {
        matches!(self.command(), ShellCommand::Hidden)
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
                // A leading VAR=value is not a command.
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
    /// A script from standard input, or another user's.
    Hidden,
}
