//! What several of these tests use.

use std::ffi::OsStr;
use std::process::Command;

/// A command with the default action for the signals that a shell's `&` (INT, QUIT) and nohup(1) (HUP) ignore in all that they start. The
/// tests may be below one of them.
pub fn undisturbed(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,QUIT").arg(program);
    command
}
