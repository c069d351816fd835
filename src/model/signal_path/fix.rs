//! What to write instead: the shortest way to a sound path.

use super::{Asked, Effect, Fate, Link, Path};
use crate::model::program::Program;
use crate::model::text::masked;

impl Path {
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
                format!("put exec before the command that starts Sidekiq, the last one of {script}")
            }
            ShellCommand::Script(_) | ShellCommand::Hidden => {
                "put exec before the command that starts Sidekiq".to_owned()
            }
        }
    }

    /// Of a shell: whether it has neither a line nor a script to run.
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
