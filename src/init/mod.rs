//! `sidekiq-lifecycle run`: an init that delivers every signal to the worker itself and waits until it has drained.

pub mod options;
#[cfg(target_os = "linux")]
mod supervision;

use std::process::ExitCode;

use options::Options;

/// Runs the command until its end and returns the exit code.
#[cfg(target_os = "linux")]
#[must_use]
pub fn run(options: Options) -> ExitCode {
    ExitCode::from(supervision::run(options))
}

/// Reports that this system is not Linux.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn run(_: Options) -> ExitCode {
    eprintln!("sidekiq-lifecycle run: this command needs Linux");
    ExitCode::from(2)
}
