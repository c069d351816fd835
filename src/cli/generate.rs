//! The command line of `generate`. It is parsed here and run in Ruby, which reads the application's files as Sidekiq does.

use std::num::NonZeroU32;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::model::text::one_line;

const EXAMPLES: &str = "\
Examples:
  bundle exec sidekiq-lifecycle generate kubernetes --probe http
  bundle exec sidekiq-lifecycle generate docker --require ./app.rb --timeout 60
  bundle exec sidekiq-lifecycle generate ecs --dry-run

The options -C, -c, -e, -g, -q, -r and -t are Sidekiq's own: pass the ones that your workers are started with.
Settings from config/sidekiq.yml need not be repeated.

Exit codes: 0 all files are written, 1 not all (the reason is printed), 2 misuse.";

/// Write the files that deploy this application's Sidekiq
///
/// They are filled in from the application: its config/sidekiq.yml, its name, its lifecycle directory. If a file exists and
/// differs, the difference is shown, and the file is replaced only after you answer yes.
#[derive(Debug, Args, Serialize)]
#[command(after_help = EXAMPLES)]
pub struct Generate {
    /// The platform
    target: Target,
    /// The application's root
    #[arg(long, value_name = "DIR", default_value = ".", value_parser = NonEmptyStringValueParser::new())]
    root: String,
    /// Sidekiq's configuration file, below the root [default: config/sidekiq.yml or config/sidekiq.yml.erb, if it exists]
    #[arg(short = 'C', long, value_name = "PATH", value_parser = line)]
    config: Option<String>,
    /// How many jobs run at once [default: from the configuration file]
    #[arg(short, long, value_name = "NUMBER")]
    concurrency: Option<NonZeroU32>,
    /// The environment that is deployed
    #[arg(short, long, value_name = "ENV", default_value = "production", value_parser = environment)]
    environment: String,
    /// The processes' tag [default: from the configuration file, else the name of the root]
    #[arg(short = 'g', long, value_name = "TAG", value_parser = line)]
    tag: Option<String>,
    /// The Ruby file that loads the application, or the root of a Rails application
    #[arg(short, long, value_name = "PATH", value_parser = line)]
    require: Option<String>,
    /// Sidekiq's shutdown timeout [default: from the configuration file, else 25]
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<NonZeroU32>,
    /// A queue that the workers process, optionally with its weight; repeatable [default: from the configuration file]
    #[arg(short, long = "queue", value_name = "QUEUE[,WEIGHT]", value_parser = line)]
    queues: Vec<String>,
    /// The user that runs the workers on each host [default: Capistrano's SSH user, else the application's name]
    #[arg(long, value_name = "NAME", value_parser = user)]
    user: Option<String>,
    /// How Kubernetes asks its probes, of a process in the container or over HTTP
    #[arg(long, value_enum, default_value_t = ProbeKind::Exec)]
    probe: ProbeKind,
    /// Replace files that differ without asking
    #[arg(long)]
    force: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Target {
    /// A Dockerfile on top of the application's image, with a health check and a stop signal
    Docker,
    /// Docker Compose, with services that wait until the worker is ready
    Compose,
    /// Amazon ECS: task definition, service, permission for task protection
    Ecs,
    /// A Deployment with probes and a grace period
    Kubernetes,
    /// A Kamal role that counts as deployed once the worker is ready
    Kamal,
    /// An AWS Systems Manager document that quiets workers on EC2 and waits
    Ssm,
    /// A unit, a template unit for several, and lines for sudoers
    Systemd,
    /// Tasks that quiet the workers, wait, and restart them; systemd's files as well
    Capistrano,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum ProbeKind {
    /// The node starts the command `check` in the container; needs no port
    Exec,
    /// The node asks over HTTP and starts no process; the worker listens on port 7433
    Http,
}

/// What stands on a line of a file.
fn line(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        text if one_line(text) == text => Ok(text.to_owned()),
        _ => Err("it contains a control character, such as a line break".to_owned()),
    }
}

/// It stands in a unit as it is.
fn environment(text: &str) -> Result<String, String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    let is_name = text.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && text.chars().all(is_plain);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("an environment name consists of letters, digits and _ . -".to_owned())
    }
}

/// A user's name (useradd(8)); it stands in sudoers and in a unit as it is.
fn user(text: &str) -> Result<String, String> {
    let begins = text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    if begins && text.len() <= 32 && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("a user name starts with a letter or _, and continues with letters, digits and _ . -; 32 at most"
            .to_owned())
    }
}

/// Why the native command does not run it.
pub(super) const NEEDS_RUBY: &str =
    "generate reads the application's configuration; run it with Ruby: bundle exec sidekiq-lifecycle generate …";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        generate: Generate,
    }

    fn parse(line: &str) -> Result<serde_json::Value, String> {
        let line = Line::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(line.generate).unwrap())
    }

    #[test]
    fn what_ruby_is_told() {
        assert_eq!(
            parse("generate ecs").unwrap(),
            serde_json::json!({
                "target": "ecs", "root": ".", "config": null, "concurrency": null, "environment": "production",
                "tag": null, "require": null, "timeout": null, "queues": [], "user": null, "probe": "exec", "force": false,
                "dry_run": false,
            })
        );
        assert_eq!(parse("generate kubernetes --probe http").unwrap()["probe"], "http");
        let all = parse("generate docker --root a -C b -e c -r d -c 7 -g f -t 60 -q mail,2 -q low --force --dry-run")
            .unwrap();
        assert_eq!((&all["root"], &all["config"], &all["environment"]), (&"a".into(), &"b".into(), &"c".into()));
        assert_eq!((&all["require"], &all["timeout"]), (&"d".into(), &60.into()));
        assert_eq!((&all["concurrency"], &all["tag"]), (&7.into(), &"f".into()));
        assert_eq!(all["queues"], serde_json::json!(["mail,2", "low"]));
        assert_eq!((&all["force"], &all["dry_run"]), (&true.into(), &true.into()));
    }

    #[test]
    fn misuse() {
        for (line, sentence) in [
            ("generate", "required"),
            ("generate heroku", "invalid value 'heroku'"),
            ("generate kubernetes --probe tcp", "invalid value 'tcp'"),
            ("generate docker -t 0", "invalid value '0'"),
            ("generate docker --root=", "a value is required for '--root <DIR>'"),
            ("generate docker -t soon", "invalid value 'soon'"),
            ("generate systemd --user root\nALL", "a user name starts with"),
            ("generate systemd --user=-x", "a user name starts with"),
            ("generate systemd --user=", "a user name starts with"),
            ("generate systemd -e a\nExecStartPre=/x", "an environment name consists of"),
            ("generate systemd -q a\nb", "it contains a control character"),
            ("generate docker -g a\u{202e}b", "it contains a control character"),
            ("generate docker -C a\nb", "it contains a control character"),
            ("generate docker -r=", "it is empty"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(sentence), "{line}: {error}");
        }
    }
}
