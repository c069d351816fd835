//! The command `sidekiq-lifecycle`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(arguments) = relay_arguments() {
        return sidekiq_lifecycle::faces::relay::main(&arguments);
    }
    sidekiq_lifecycle::faces::command::main()
}

/// The relay is to be small, so it does without the command line's parser.
#[cfg(target_os = "linux")]
fn relay_arguments() -> Option<Vec<String>> {
    let mut arguments = std::env::args().skip(1);
    let is_relay = arguments.next().is_some_and(|word| word == sidekiq_lifecycle::faces::relay::SUBCOMMAND);
    is_relay.then(|| arguments.collect())
}
