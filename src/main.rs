//! The command `sidekiq-lifecycle`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidekiq_lifecycle::faces::command::main()
}
