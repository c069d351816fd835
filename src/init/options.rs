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

A program around one Sidekiq (su, sudo, foreman) or beside it (puma) is told to stop when Sidekiq has
ended. A shell that has a trap for a signal is given the signal as well. If it runs the worker in the
background (worker & wait), the shell alone is: it decides.

Exit codes: the command's (128 + n for signal n), 127 it is not there, 126 it cannot be run,
137 --stop-grace was over, 2 misuse, 1 the system refused to let it work.";

/// Start a command, bring every signal to the worker in it, reap, and wait until the worker has drained
///
/// An init: at home as PID 1 of a container, and anywhere else. The worker is found below shells, timeout,
/// other inits, and what starts one Sidekiq (su, sudo, foreman); there may be several.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Options {
    /// Hand a signal on as another: TERM:TSTP; TERM: drops it (repeatable)
    #[arg(short = 'r', long = "signal-map", value_name = "FROM:TO")]
    pub(super) signals: Vec<SignalRewrite>,
    /// End with another exit code: 143:0; 143 alone means the same (repeatable)
    #[arg(short = 'e', long = "exit-code-map", value_name = "FROM:TO")]
    pub(super) codes: Vec<CodeRewrite>,
    /// Hand signals on to the command's whole process group, shells and all
    #[arg(short, long)]
    pub(super) group: bool,
    /// Get this signal when the parent ends
    #[arg(short, long, value_name = "SIGNAL")]
    pub(super) parent_death_signal: Option<Number>,
    /// How long a worker, or who is beside it, may outlive the command; 0: not at all, as with tini
    ///
    /// Such a worker is told to stop (TERM) unless it has been. The default is the longest stop timeout that ECS grants
    /// on Fargate; a platform that leaves less time ends it sooner.
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = duration::parse_argument_or_zero)]
    pub(super) grace: Duration,
    /// Kill what is left this long after the first TERM, INT or QUIT [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument_or_zero)]
    pub(super) stop_grace: Option<Duration>,
    /// Say on standard error which signal goes to whom
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,
}
