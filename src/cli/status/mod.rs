//! `status`: a table for people, JSON for machines, once or for as long as somebody watches.

mod table;
#[cfg(target_os = "linux")]
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::target::{Target, TargetArgs};
use crate::output::print_error;
use crate::store::killed_jobs::look_into_recorders;
use crate::store::report::Report;

const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle status
  sidekiq-lifecycle status --all --watch      every Sidekiq on this machine, until Ctrl-C
  sidekiq-lifecycle status --json | jq '.processes[].record.busy'";

/// Show the Sidekiq processes of a lifecycle directory
///
/// docs/json.md describes every field of the JSON. With --watch and --json, each change prints one line.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Refresh whenever something changes, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Prints it.
///
/// # Errors
/// The output cannot be written because its reader has exited.
pub fn main(out: &mut impl Write, options: Options) -> io::Result<ExitCode> {
    let Options { target, json, watch } = options;
    let target = Target::from(target);
    if watch {
        return watched(out, &target, json);
    }
    let mut processes = match target.observe(false) {
        Ok(processes) => processes,
        Err(error) => {
            print_error(&error.to_string());
            return Ok(ExitCode::FAILURE);
        }
    };
    look_into_recorders(&mut processes);
    if json {
        serde_json::to_writer_pretty(&mut *out, &Report::new(target.directory(), &processes))?;
        writeln!(out)?;
    } else {
        table::print(out, &target, &processes)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(target_os = "linux")]
use watch::watched;
#[cfg(not(target_os = "linux"))]
fn watched(_: &mut impl Write, _: &Target, _: bool) -> io::Result<ExitCode> {
    print_error("--watch needs Linux, and this is another system");
    Ok(ExitCode::from(2))
}
