//! The command lines of `quiet`, `stop` and `wait`.

use std::time::Duration;

use clap::ValueEnum;

use crate::cli::target::TargetArgs;
use crate::model::duration;
use crate::model::goal::Goal;

const QUIET_EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle quiet                          take no more jobs
  sidekiq-lifecycle quiet --wait --timeout 2h      and wait until the running ones have finished
  sidekiq-lifecycle quiet --then-stop              and exit when the running ones have finished, in hours perhaps
  sidekiq-lifecycle quiet --pid 4711

Exit codes: 0 done, 1 not done (the reason is printed), 2 misuse, 124 timed out, 130 Ctrl-C.
After 124 and 130 the processes stay quiet.";

const STOP_EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle stop
  sidekiq-lifecycle stop --drain-first --timeout 10m --kill-after 30s
  sidekiq-lifecycle stop --all                     every Sidekiq on this machine

Exit codes: 0 all have exited, 1 not all, or jobs were lost (the reason is printed), 2 misuse,
124 timed out, 130 Ctrl-C. After 124 and 130 the processes still stop.";

const WAIT_EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle wait ready --timeout 2m        after a start
  sidekiq-lifecycle wait drained                   after a quiet
  sidekiq-lifecycle wait stopped --pid 4711

Exit codes: 0 reached, 1 not reached (the reason is printed), 2 misuse, 124 timed out, 130 Ctrl-C.";

/// Make Sidekiq processes take no more jobs (SIGTSTP); with --wait, wait until they have drained
///
/// This cannot be undone except by restarting the process. Processes that are already quiet are skipped.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = QUIET_EXAMPLES)]
pub struct Quiet {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Wait until every running job has finished; with --then-stop, until the processes have exited
    #[arg(long)]
    pub(super) wait: bool,
    /// Let each process stop by itself once it has drained, however long that takes, even after this command has returned
    #[arg(long)]
    pub(super) then_stop: bool,
    /// The longest to wait: 90s, 10m, 1h30m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument, requires = "wait")]
    pub(super) timeout: Option<Duration>,
    /// Print JSON at the end
    #[arg(long)]
    pub(super) json: bool,
}

/// Stop Sidekiq processes (SIGTERM), and wait until they have exited
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = STOP_EXAMPLES)]
pub struct Stop {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Quiet them first, wait until they have drained, then stop them
    #[arg(long)]
    pub(super) drain_first: bool,
    /// The longest to wait, in total: 90s, 10m, 1h30m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    pub(super) timeout: Option<Duration>,
    /// Send SIGKILL this long after SIGTERM; running jobs are lost
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    pub(super) kill_after: Option<Duration>,
    /// Print JSON at the end
    #[arg(long)]
    pub(super) json: bool,
}

/// Wait until Sidekiq processes are ready, quiet, drained or stopped; no signal is sent
///
/// `ready` considers every process that is present at the time, and the directory may not exist yet. The other goals
/// consider the processes that are present when the command starts.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = WAIT_EXAMPLES)]
pub struct Wait {
    /// What to wait for
    #[arg(value_enum)]
    pub(super) goal: Wanted,
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// The longest to wait: 90s, 10m, 1h30m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    pub(super) timeout: Option<Duration>,
    /// Print JSON at the end
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Wanted {
    /// Started, and taking jobs
    Ready,
    /// Taking no more jobs
    Quiet,
    /// Taking no more jobs, and finished with every one
    Drained,
    /// Exited
    Stopped,
}

impl From<Wanted> for Goal {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Ready => Self::Ready,
            Wanted::Quiet => Self::Quiet,
            Wanted::Drained => Self::Drained,
            Wanted::Stopped => Self::Stopped,
        }
    }
}
