//! What Ruby does, and this command reads: there is one command with one help, one completion and one manual page,
//! though some of it reaches into the application.
//!
//! The gem's own command calls this one with the number of an open descriptor in [`ANSWER`], reads from there what was
//! asked, and does it.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// Names the descriptor to which the answer is written.
const ANSWER: &str = "SIDEKIQ_LIFECYCLE_ANSWER";

/// Hands over to Ruby what was asked. Where no Ruby waits for it, says `why` one is needed.
///
/// # Errors
/// Ruby has gone.
pub fn to_ruby(asked: &impl Serialize, why: &str) -> io::Result<ExitCode> {
    let descriptor = env::var(ANSWER).ok().and_then(|number| number.parse::<u32>().ok());
    let Some(descriptor) = descriptor else {
        eprintln!("sidekiq-lifecycle: {why}");
        return Ok(ExitCode::from(2));
    };
    let mut answer = File::options().write(true).open(format!("/dev/fd/{descriptor}"))?;
    serde_json::to_writer(&mut answer, asked)?;
    answer.flush()?;
    Ok(ExitCode::SUCCESS)
}
