//! The command lines of `quiet`, `stop` and `wait`.

use std::time::Duration;

use clap::ValueEnum;

use crate::cli::target::TargetArgs;
use crate::model::duration;
use crate::model::goal::Goal;

const QUIET_EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle quiet                          take no more jobs
  sidekiq-lifecycle quiet --wait --timeout 2h      and wait until those in hand are done
  sidekiq-lifecycle quiet --pid 4711

Exit codes: 0 done, 1 not and why, 2 misuse, 124 timed out; 130 Ctrl-C, what was told stays so.";

const STOP_EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle stop
  sidekiq-lifecycle stop --drain-first --timeout 10m --kill-after 30s
  sidekiq-lifecycle stop --all                     every Sidekiq of this machine

Exit codes: 0 all have ended, 1 not or not well and why, 2 misuse, 124 timed out; 130 Ctrl-C.";

const WAIT_EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle wait ready --timeout 2m        after a start
  sidekiq-lifecycle wait drained                   after a quiet
  sidekiq-lifecycle wait stopped --pid 4711

Exit codes: 0 reached, 1 not and why, 2 misuse, 124 timed out; 130 Ctrl-C.";

/// Tell Sidekiqs to take no more jobs (TSTP), and wait until they have drained if asked to
///
/// Nothing takes it back but a new start. Those that are quiet already are left alone.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = QUIET_EXAMPLES)]
pub struct Quiet {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Wait until every job in hand is done
    #[arg(long)]
    pub(super) wait: bool,
    /// Wait no longer than this: 90s, 10m, 1h30m [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument, requires = "wait")]
    pub(super) timeout: Option<Duration>,
    /// Print JSON for machines at the end
    #[arg(long)]
    pub(super) json: bool,
}

/// Stop Sidekiqs (TERM), and wait until they have ended
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = STOP_EXAMPLES)]
pub struct Stop {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Quiet them first, wait until every job in hand is done, and stop them then
    #[arg(long)]
    pub(super) drain_first: bool,
    /// Wait no longer than this, for all of it: 90s, 10m, 1h30m [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    pub(super) timeout: Option<Duration>,
    /// Kill what is left so long after TERM; the jobs that it has are lost
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    pub(super) kill_after: Option<Duration>,
    /// Print JSON for machines at the end
    #[arg(long)]
    pub(super) json: bool,
}

/// Wait until Sidekiqs are ready, quiet, drained or stopped; tell them nothing
///
/// For `ready` whoever is in the directory then counts, and it may not exist yet; all else is waited for of those that
/// are there when the command begins.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = WAIT_EXAMPLES)]
pub struct Wait {
    /// What to wait for
    #[arg(value_enum)]
    pub(super) goal: Wanted,
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Wait no longer than this: 90s, 10m, 1h30m [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    pub(super) timeout: Option<Duration>,
    /// Print JSON for machines at the end
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Wanted {
    /// Started, and fetching jobs
    Ready,
    /// Taking no more jobs
    Quiet,
    /// Taking no more jobs, and finished with every one
    Drained,
    /// Ended
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
