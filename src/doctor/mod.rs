//! The doctor: checks from outside whether a Sidekiq loses jobs when it is stopped, and why.
//!
//! It reads /proc and the lifecycle directory, queries systemd if it is running, and changes nothing. [`trial`] does
//! the same with a command line that it launches itself.

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

/// Examines the Sidekiqs of a lifecycle directory, or of /proc, and prints the result. Returns the exit code.
///
/// # Errors
/// The output cannot be written: its reader has exited.
pub fn main(out: &mut impl Write, directory: &Directory, json: bool) -> io::Result<u8> {
    if !Path::new("/proc/self/status").exists() {
        writeln!(out, "{}: there is no /proc here", Verdict::Unknown)?;
        return Ok(3);
    }
    let report = Report::of(directory);
    print(out, &report, json)?;
    Ok(report.exit_code())
}
