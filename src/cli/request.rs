//! `fleet` and `generate` are parsed here and run in Ruby: there is one command with one help, one completion and one manual
//! page, though some of it needs the application. The parser is not in the native extension, because every Sidekiq would
//! load it.
//!
//! The gem's command asks with the hidden subcommand `parse`. If there is no request it runs the native command with the same
//! words, which answers misuse and `--help`.

use std::ffi::{OsStr, OsString};
use std::iter;

use clap::Parser;

use super::{Arguments, Command};

/// What a command line of `fleet` or `generate` asks for, as JSON; none if the words are misuse, ask for help, or are another
/// command.
pub(super) fn request(words: &[OsString]) -> Option<String> {
    let line = iter::once(OsStr::new("sidekiq-lifecycle")).chain(words.iter().map(OsString::as_os_str));
    match Arguments::try_parse_from(line).ok()?.command {
        Command::Fleet(fleet) => serde_json::to_string(fleet.action()).ok(),
        Command::Generate(generate) => serde_json::to_string(&generate).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_of(line: &str) -> Option<serde_json::Value> {
        let json = request(&line.split(' ').map(OsString::from).collect::<Vec<_>>())?;
        serde_json::from_str(&json).ok()
    }

    #[test]
    fn what_ruby_runs() {
        let quiet = request_of("fleet quiet --match worker-*").unwrap_or_default();
        assert_eq!((&quiet["action"], &quiet["matching"][0]), (&"quiet".into(), &"worker-*".into()));
        let stop = request_of("fleet stop --batch 10% --timeout 2m").unwrap_or_default();
        assert_eq!((&stop["batch"]["percent"], &stop["timeout"]), (&10.into(), &120.0.into()));
        assert!(request_of("generate ecs").is_some());
    }

    #[test]
    fn what_the_native_command_answers() {
        for line in ["fleet quiet --sideways", "fleet --help", "generate", "path", "parse -- fleet status"] {
            assert_eq!(request_of(line), None, "{line}");
        }
    }
}
