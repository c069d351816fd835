//! The command line of `run`.

use std::ffi::OsString;
use std::time::Duration;

use crate::model::duration;
use crate::model::signal_map::{CodeRewrite, Number, SignalRewrite};

const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle run -- bundle exec sidekiq
  sidekiq-lifecycle run -- sh -c 'bin/prepare; bundle exec sidekiq | tee log/worker.log'
  sidekiq-lifecycle run --exit-code-map 143:0 --signal-map HUP:TSTP -- bin/worker

In a Dockerfile, in front of whatever starts the worker:
  ENTRYPOINT [\"sidekiq-lifecycle\", \"run\", \"--\"]
  CMD [\"/app/worker.sh\"]

A program around one Sidekiq (su, sudo, foreman) or beside it (puma) gets SIGTERM once Sidekiq has
exited. A shell with a trap for a signal gets it as well as the worker. If the worker runs in the shell's
background (worker & wait), only the shell gets it, and its trap decides.

Exit codes: the command's (128 + n for signal n), 127 command not found, 126 not executable,
137 killed after --stop-grace, 2 misuse, 1 the system refuses a call that run needs.";

/// Run a command as an init: deliver signals to its worker, reap, and wait until the worker has drained
///
/// It works as PID 1 of a container, and anywhere else. It finds the worker below shells, timeout, other inits, and
/// programs that start one Sidekiq (su, sudo, foreman). There may be several workers.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Options {
    /// Forward a signal as another one: TERM:TSTP; TERM: drops it (repeatable)
    #[arg(short = 'r', long = "signal-map", value_name = "FROM:TO")]
    pub(super) signals: Vec<SignalRewrite>,
    /// Exit with another code: 143:0; 143 alone means the same (repeatable)
    #[arg(short = 'e', long = "exit-code-map", value_name = "FROM:TO")]
    pub(super) codes: Vec<CodeRewrite>,
    /// Forward signals to the command's whole process group, including shells
    #[arg(short, long)]
    pub(super) group: bool,
    /// Receive this signal when the parent process exits
    #[arg(short, long, value_name = "SIGNAL")]
    pub(super) parent_death_signal: Option<Number>,
    /// How long a worker, or a program beside it, may outlive the command; 0 for not at all, as with tini
    ///
    /// A worker that is left behind gets SIGTERM, unless it has already received one. The default is the longest stop
    /// timeout of ECS on Fargate. If the platform's stop timeout is shorter, the platform kills the worker sooner.
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = duration::parse_argument_or_zero)]
    pub(super) grace: Duration,
    /// Send SIGKILL to what is left this long after the first TERM, INT or QUIT [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument_or_zero)]
    pub(super) stop_grace: Option<Duration>,
    /// Print on standard error which signal goes to which process
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,
}

impl Options {
    /// Those of `run -- COMMAND`, as the parser would find them.
    #[must_use]
    pub fn plain(command: Vec<OsString>) -> Self {
        Self {
            signals: Vec::new(),
            codes: Vec::new(),
            group: false,
            parent_death_signal: None,
            grace: Duration::from_secs(120),
            stop_grace: None,
            verbose: false,
            command,
        }
    }
}
