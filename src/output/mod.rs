//! Standard output and standard error of the command: one owner of each form.

pub mod progress;
pub mod table;

use std::io::{self, Write};

use crate::model::text::one_line;

/// Prints what is wrong on standard error. That it may be full or closed changes nothing.
pub fn print_error(reason: &str) {
    let _ = writeln!(io::stderr(), "sidekiq-lifecycle: {}", one_line(reason));
}
