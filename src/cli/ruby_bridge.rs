//! `fleet` and `generate` are parsed here and run in Ruby: there is one command with one help, one completion and one manual
//! page, though some of it needs the application.
//!
//! The gem's command calls [`parse`] through the native extension. The native command itself refuses both.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;

use super::{Arguments, Command};
use crate::output::print_error;

/// A command line that Ruby has asked about.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// What it asks for, as JSON.
    Request(String),
    /// It has been answered on standard output or standard error; the exit code.
    Answered(i32),
}

/// Parses a command line of `fleet` or `generate`, with the program's name in front. Misuse and `--help` are answered.
#[must_use]
pub fn parse(arguments: &[OsString]) -> Parsed {
    let command = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        Err(error) => {
            let _ = error.print();
            let _ = io::stdout().flush(); // a library's buffer is not flushed at exit
            return Parsed::Answered(error.exit_code());
        }
    };
    let request = match command {
        Command::Fleet(fleet) => serde_json::to_string(fleet.action()),
        Command::Generate(generate) => serde_json::to_string(&generate),
        _ => {
            print_error("Ruby runs only fleet and generate");
            return Parsed::Answered(2);
        }
    };
    request.map_or_else(
        |error| {
            print_error(&error.to_string());
            Parsed::Answered(1)
        },
        Parsed::Request,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Parsed {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_ruby_runs() {
        let Parsed::Request(request) = parse_words("sidekiq-lifecycle fleet quiet --match worker-*") else {
            unreachable!("it is a command of the fleet");
        };
        let request: serde_json::Value = serde_json::from_str(&request).unwrap_or_default();
        assert_eq!((&request["action"], &request["matching"][0]), (&"quiet".into(), &"worker-*".into()));
        assert!(matches!(parse_words("sidekiq-lifecycle generate ecs"), Parsed::Request(_)));
    }

    #[test]
    fn what_is_answered_here() {
        assert_eq!(parse_words("sidekiq-lifecycle fleet quiet --sideways"), Parsed::Answered(2));
        assert_eq!(parse_words("sidekiq-lifecycle fleet --help"), Parsed::Answered(0));
        assert_eq!(parse_words("sidekiq-lifecycle path"), Parsed::Answered(2));
    }
}
