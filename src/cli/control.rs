//! `quiet`, `stop` and `wait`: tell processes what to do, and wait until they have come to it.
//!
//! Whom a command is about is decided when it begins. A process is signalled only through a descriptor of it, and only
//! after its start time was compared with that of the record: a pid that another process has by now is never signalled.

#[cfg(target_os = "linux")]
mod party;

use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::cli::target::Whom;
use crate::model::goal::Goal;
use crate::model::stop_timeout::parse_time;

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
    who: Whom,
    /// Wait until every job in hand is done
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this: 90s, 10m, 1h30m [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "wait")]
    timeout: Option<Duration>,
    /// Print JSON for machines at the end
    #[arg(long)]
    json: bool,
}

/// Stop Sidekiqs (TERM), and wait until they have ended
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = STOP_EXAMPLES)]
pub struct Stop {
    #[command(flatten)]
    who: Whom,
    /// Quiet them first, wait until every job in hand is done, and stop them then
    #[arg(long)]
    drain_first: bool,
    /// Wait no longer than this, for all of it: 90s, 10m, 1h30m [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// Kill what is left so long after TERM; the jobs that it has are lost
    #[arg(long, value_name = "TIME", value_parser = time)]
    kill_after: Option<Duration>,
    /// Print JSON for machines at the end
    #[arg(long)]
    json: bool,
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
    goal: Wanted,
    #[command(flatten)]
    who: Whom,
    /// Wait no longer than this: 90s, 10m, 1h30m [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// Print JSON for machines at the end
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
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

/// Reads a time as people write it.
///
/// # Errors
/// What to write instead.
pub fn time(text: &str) -> Result<Duration, String> {
    let seconds = parse_time(text).ok_or("write a time, such as 90s, 10m, 1h30m, or plain seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => Err("write a time above 0".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("that is more time than there is; leave it out to wait for as long as it takes".to_owned()),
    }
}

/// Runs `quiet`.
#[must_use]
pub fn quiet(options: Quiet) -> ExitCode {
    party::quiet(options)
}

/// Runs `stop`.
#[must_use]
pub fn stop(options: Stop) -> ExitCode {
    party::stop(options)
}

/// Runs `wait`.
#[must_use]
pub fn wait(options: Wait) -> ExitCode {
    party::wait(options)
}

/// Processes are told apart by descriptors that only Linux has.
#[cfg(not(target_os = "linux"))]
mod party {
    use std::process::ExitCode;

    use crate::cli::complain;
    use crate::model::goal::Goal;

    pub fn quiet(options: super::Quiet) -> ExitCode {
        let super::Quiet { who: _, wait: _, timeout: _, json: _ } = options;
        refuse()
    }

    pub fn stop(options: super::Stop) -> ExitCode {
        let super::Stop { who: _, drain_first: _, timeout: _, kill_after: _, json: _ } = options;
        refuse()
    }

    pub fn wait(options: super::Wait) -> ExitCode {
        let super::Wait { goal, who: _, timeout: _, json: _ } = options;
        let _ = Goal::from(goal);
        refuse()
    }

    fn refuse() -> ExitCode {
        complain("quiet, stop and wait need Linux, and this is another system");
        ExitCode::from(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in
            [("90", 90.0), ("90s", 90.0), ("1h30m", 5400.0), ("0.5s", 0.5), ("0.5", 0.5), ("1d", f64::NAN)]
        {
            match time(text) {
                Ok(time) => assert_eq!(time.as_secs_f64(), seconds, "{text}"),
                Err(_) => assert!(seconds.is_nan(), "{text}"),
            }
        }
        for (wrong, why) in [
            ("", "write a time, such as"),
            ("-1", "write a time, such as"),
            (".", "write a time, such as"),
            ("soon", "write a time, such as"),
            ("10 minutes", "write a time, such as"),
            ("0", "above 0"),
            ("0.0s", "above 0"),
            ("99999999999999999999999", "more time than there is"),
            ("99999999999999999999999h", "more time than there is"),
        ] {
            assert!(time(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }
}
