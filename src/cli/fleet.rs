//! The command line of `fleet`. It is parsed here and run in Ruby, because only the application knows how to reach its
//! Redis.

use std::ffi::OsStr;
use std::num::NonZeroU32;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, Command, Error, Subcommand, ValueEnum};
use serde::Serialize;

use crate::model::{duration, pattern};

const EXAMPLES: &str = "\
Examples:
  bundle exec sidekiq-lifecycle fleet status
  bundle exec sidekiq-lifecycle fleet quiet --match 'worker-*' --wait --timeout 2h
  bundle exec sidekiq-lifecycle fleet quiet --match 'old-*' --then-stop
  bundle exec sidekiq-lifecycle fleet wait drained --match tag=shop,queue=reports --except 'worker-7'
  bundle exec sidekiq-lifecycle fleet stop --batch 10% --timeout 1h
  bundle exec sidekiq-lifecycle fleet wake --match 'worker-*'
  bundle exec sidekiq-lifecycle fleet timeline --since 6h --svg deploy.svg
  bundle exec sidekiq-lifecycle fleet recover --dry-run

PATTERN is a shell glob. It is compared with the hostname, the tag, each label, each queue and Sidekiq's version;
with a colon in it, also with the name (worker-1:4711) and the identity (worker-1:4711:8f56db2b19b6).
FIELD=PATTERN compares with one field: hostname, tag, label, queue, version, process, identity.
Patterns separated by commas must all match.

Exit codes: 0 reached, 1 not reached (the reason is printed), 2 misuse, 124 timed out, 130 Ctrl-C, 143 SIGTERM.";

/// Show and control every Sidekiq that uses the application's Redis
///
/// It works through Sidekiq's own registry in Redis, so processes without this gem are included. A process receives a
/// command at its next heartbeat, within 10 s.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Fleet {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum Action {
    /// Show every process
    Status {
        #[command(flatten)]
        #[serde(flatten)]
        selection: Selection,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Make processes take no more jobs
    Quiet {
        #[command(flatten)]
        #[serde(flatten)]
        selection: Selection,
        /// Wait until they have finished every job; with --then-stop, until they have exited
        #[arg(long)]
        wait: bool,
        /// Let each process stop by itself once it has drained, however long that takes, even after this command has returned
        #[arg(long)]
        then_stop: bool,
        #[command(flatten)]
        #[serde(flatten)]
        steering: Steering,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Wait until processes have reached a goal; nothing is sent
    Wait {
        /// What to wait for
        goal: Goal,
        #[command(flatten)]
        #[serde(flatten)]
        selection: Selection,
        #[command(flatten)]
        #[serde(flatten)]
        patience: Patience,
        #[command(flatten)]
        #[serde(flatten)]
        notice: Notice,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Stop processes, and wait until they have exited
    Stop {
        #[command(flatten)]
        #[serde(flatten)]
        selection: Selection,
        /// Quiet them first, wait until all of them (of the batch) have drained, then stop them
        #[arg(long)]
        drain_first: bool,
        /// Stop this many at a time; the next batch waits until as many replacements are ready
        #[arg(long, value_name = "N|N%", value_parser = batch)]
        batch: Option<Batch>,
        #[command(flatten)]
        #[serde(flatten)]
        steering: Steering,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Restart processes that have drained: stop them (SIGTERM), and wait until their supervisor's replacements are ready
    Wake {
        #[command(flatten)]
        #[serde(flatten)]
        selection: Selection,
        /// Include quiet processes that still have jobs: the jobs get Sidekiq's shutdown timeout, and are then pushed back
        #[arg(long)]
        even_busy: bool,
        #[command(flatten)]
        #[serde(flatten)]
        steering: Steering,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Show the jobs that killed processes had in hand, and what became of them
    ///
    /// Only a process with `recover_jobs = true` records them. Exit code 1 if at least one waits to be put back.
    Lost {
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Put back the jobs that killed processes had in hand, as a Sidekiq with `recover_jobs = true` does
    Recover {
        /// Show what would be put back, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Include the flight recorders in this lifecycle directory
        #[arg(long = "dir", value_name = "DIR")]
        directory: Option<String>,
        #[command(flatten)]
        #[serde(flatten)]
        notice: Notice,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
    /// Show what the processes were doing, and when none was ready; only processes with this gem are known
    Timeline {
        /// How far to look back: 30m, 6h, 48h
        #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = seconds)]
        since: f64,
        /// Write it as a picture
        #[arg(long, value_name = "FILE")]
        svg: Option<String>,
        #[command(flatten)]
        #[serde(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args, Serialize)]
struct Selection {
    /// Only these processes; repeatable [default: all]
    #[arg(long = "match", value_name = "PATTERN", value_parser = pattern)]
    matching: Vec<String>,
    /// Leave these processes out; repeatable
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    except: Vec<String>,
}

#[derive(Debug, Args, Serialize)]
struct Steering {
    /// Show what would be sent to which process, and send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    #[serde(flatten)]
    patience: Patience,
    #[command(flatten)]
    #[serde(flatten)]
    notice: Notice,
}

#[derive(Debug, Args, Serialize)]
struct Patience {
    /// The longest to wait: 90s, 10m, 1h30m [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    timeout: Option<f64>,
}

#[derive(Debug, Args, Serialize)]
struct Notice {
    /// Post to a Slack-compatible webhook at the start and at the end
    #[arg(long, value_name = "URL", env = "SIDEKIQ_LIFECYCLE_SLACK_WEBHOOK", hide_env_values = true, value_parser = AddressParser)]
    slack_webhook: Option<Address>,
    /// Post plain JSON to a webhook at the start and at the end
    #[arg(long, value_name = "URL", env = "SIDEKIQ_LIFECYCLE_WEBHOOK", hide_env_values = true, value_parser = AddressParser)]
    webhook: Option<Address>,
    /// Who runs the command, for the webhooks [default: the user and the host]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args, Serialize)]
struct Common {
    /// The application, as for sidekiq -r: a Rails application's directory or a Ruby file [default: the Rails application
    /// in this directory; without one, only $REDIS_URL is used]
    #[arg(short, long, value_name = "PATH")]
    require: Option<String>,
    /// The application's environment, as for sidekiq -e
    #[arg(short, long, value_name = "ENV")]
    environment: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Goal {
    /// All take jobs
    Ready,
    /// All have been made quiet
    Quiet,
    /// All are quiet, and have finished every job
    Drained,
    /// All have exited
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Batch {
    Count(u32),
    Percent(u32),
}

fn batch(text: &str) -> Result<Batch, String> {
    let read = |number: &str| number.parse::<NonZeroU32>().ok().map(NonZeroU32::get);
    let batch = match text.strip_suffix('%') {
        Some(percent) => read(percent).filter(|percent| *percent <= 100).map(Batch::Percent),
        None => read(text).map(Batch::Count),
    };
    batch.ok_or_else(|| "write a number of processes, such as 5, or a part of them, such as 10%".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    duration::parse_argument(text).map(|time| time.as_secs_f64())
}

fn pattern(text: &str) -> Result<String, String> {
    pattern::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Of a webhook; none where it is empty, as a variable may be set to nothing.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
struct Address(Option<String>);

/// Reads an [`Address`]. It is a secret: clap's own message would show what is wrong with it.
#[derive(Clone)]
struct AddressParser;

impl TypedValueParser for AddressParser {
    type Value = Address;

    fn parse_ref(&self, command: &Command, option: Option<&Arg>, value: &OsStr) -> Result<Address, Error> {
        if value.is_empty() {
            return Ok(Address(None));
        }
        let address = value.to_str().filter(|text| text.starts_with("https://") || text.starts_with("http://"));
        address.map(|text| Address(Some(text.to_owned()))).ok_or_else(|| {
            let option = option.map(ToString::to_string).unwrap_or_default();
            let message = format!("{option}: write an address that begins with https:// or http://\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

/// Why the native command does not run it.
pub(super) const NEEDS_RUBY: &str =
    "fleet loads the application to reach its Redis; run it with Ruby: bundle exec sidekiq-lifecycle fleet …";

impl Fleet {
    /// What it asks for.
    pub(super) fn action(&self) -> &impl Serialize {
        &self.action
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        fleet: Fleet,
    }

    fn parse(line: &str) -> Result<serde_json::Value, String> {
        let line = Line::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(line.fleet.action).unwrap())
    }

    #[test]
    fn what_ruby_is_told() {
        let stop =
            parse("fleet stop --match worker-* --match tag=shop,queue=mail --batch 10% --timeout 1h30m").unwrap();
        assert_eq!(stop["action"], "stop");
        assert_eq!(stop["matching"], serde_json::json!(["worker-*", "tag=shop,queue=mail"]));
        assert_eq!((&stop["batch"]["percent"], &stop["timeout"]), (&10.into(), &5400.0.into()));
        assert_eq!((&stop["drain_first"], &stop["dry_run"]), (&false.into(), &false.into()));
        let wait = parse("fleet wait drained -r app.rb -e production --json").unwrap();
        assert_eq!((&wait["goal"], &wait["require"]), (&"drained".into(), &"app.rb".into()));
        assert_eq!((&wait["environment"], &wait["json"]), (&"production".into(), &true.into()));
        assert_eq!(parse("fleet stop --batch 5").unwrap()["batch"]["count"], 5);
        let timeline = parse("fleet timeline --svg deploy.svg").unwrap();
        let recover = parse("fleet recover --dir tmp/sidekiq --dry-run").unwrap();
        assert_eq!((&recover["directory"], &recover["dry_run"]), (&"tmp/sidekiq".into(), &true.into()));
        assert_eq!((&timeline["since"], &timeline["svg"]), (&21600.0.into(), &"deploy.svg".into()));
    }

    #[test]
    fn webhooks_may_be_empty_and_are_secret() {
        let quiet = parse("fleet quiet --webhook http://x --slack-webhook=").unwrap();
        assert_eq!((&quiet["webhook"], &quiet["slack_webhook"]), (&"http://x".into(), &serde_json::Value::Null));
        let error = parse("fleet quiet --slack-webhook hooks.example/secret").unwrap_err();
        assert!(error.contains("--slack-webhook") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn misuse() {
        for (line, sentence) in [
            ("fleet stop --batch 0", "write a number of processes"),
            ("fleet stop --batch 101%", "write a number of processes"),
            ("fleet quiet --timeout soon", "write a time"),
            ("fleet quiet --match colour=red", "there is no field colour; use one of hostname, tag,"),
            ("fleet quiet --match tag=", "write a pattern"),
            ("fleet quiet --match a,,b", "write a pattern"),
            ("fleet quiet --webhook example.org", "begins with https://"),
            ("fleet wait busy", "invalid value 'busy'"),
            ("fleet wait", "required"),
            ("fleet", "Usage"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(sentence), "{line}: {error}");
        }
    }
}
