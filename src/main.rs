//! The command `sidekiq-lifecycle`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(arguments) = relay_arguments() {
        return sidekiq_lifecycle::relay::process::main(&arguments);
    }
    sidekiq_lifecycle::cli::main()
}

/// The relay has a name of its own, and does not use the command line parser, which keeps it small.
#[cfg(target_os = "linux")]
fn relay_arguments() -> Option<Vec<String>> {
    let mut arguments = std::env::args();
    let is_relay = arguments.next().is_some_and(|name| name == sidekiq_lifecycle::model::program::RELAY);
    is_relay.then(|| arguments.collect())
}
