//! Processes are told apart by pidfds, which only Linux has.

use std::process::ExitCode;

use super::options::{Quiet, Stop, Wait};
use crate::model::goal::Goal;
use crate::output::print_error;

/// Refuses.
#[must_use]
pub fn quiet(Quiet { target: _, wait: _, then_stop: _, timeout: _, json: _ }: Quiet) -> ExitCode {
    refuse()
}

/// Refuses.
#[must_use]
pub fn stop(Stop { target: _, drain_first: _, timeout: _, kill_after: _, json: _ }: Stop) -> ExitCode {
    refuse()
}

/// Refuses.
#[must_use]
pub fn wait(Wait { goal, target: _, timeout: _, json: _ }: Wait) -> ExitCode {
    let _ = Goal::from(goal);
    refuse()
}

fn refuse() -> ExitCode {
    print_error("quiet, stop and wait need Linux, and this is another system");
    ExitCode::from(2)
}
