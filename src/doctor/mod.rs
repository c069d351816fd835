//! The doctor: tells of every Sidekiq whether it loses jobs when it is told to stop, and why, from outside.
//!
//! It reads /proc and the lifecycle directory, asks systemd where there is one, and changes nothing. [`trial`] does the
//! same of a command line that it launches itself.

mod examination;
mod report;
mod text;
pub mod trial;

use std::io::{self, Write};
use std::path::Path;

use report::Report;
use text::print;

use crate::model::diagnosis::Verdict;
use crate::store::directory::Directory;

/// Examines the Sidekiqs of a lifecycle directory, or of /proc, and prints what was found. Gives back the exit code.
///
/// # Errors
/// Whoever reads it has gone.
pub fn main(out: &mut impl Write, directory: &Directory, json: bool) -> io::Result<u8> {
    if !Path::new("/proc/self/status").exists() {
        writeln!(out, "{}: there is no /proc here", Verdict::Unknown)?;
        return Ok(3);
    }
    let report = Report::of(directory);
    print(out, &report, json)?;
    Ok(report.exit_code())
}
