//! `sidekiq-lifecycle run`: an init that brings every signal to the worker itself and waits until it has drained.

pub mod options;
#[cfg(target_os = "linux")]
mod supervision;

use std::process::ExitCode;

use options::Options;

/// Runs the command to its end and gives back the exit code to end with.
#[cfg(target_os = "linux")]
#[must_use]
pub fn run(options: Options) -> ExitCode {
    ExitCode::from(supervision::run(options))
}

/// Says that this is no Linux.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn run(_: Options) -> ExitCode {
    eprintln!("sidekiq-lifecycle run: an init needs Linux, and this is another system");
    ExitCode::from(2)
}
