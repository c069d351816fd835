//! `lost`: which jobs killed processes had in hand, and what became of them.

use std::io::{self, Write};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::target::DirArg;
use crate::model::duration;
use crate::model::job::jobs;
use crate::model::killed_job::{KilledJob, Outcome};
use crate::model::text::one_line;
use crate::output::print_error;
use crate::output::table::{self, Tone};
use crate::store::error::Error;
use crate::store::killed_jobs::KilledJobs;
use crate::store::record::now;

const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle lost
  sidekiq-lifecycle lost --json | jq -r '.jobs[] | select(.outcome == \"waiting\") | .jid'
  bundle exec sidekiq-lifecycle fleet lost         of every machine that uses the application's Redis
  bundle exec sidekiq-lifecycle fleet recover      put them back now

Exit codes: 0 no job waits to be put back, 1 at least one does, or a recorder cannot be read, 2 misuse.";

/// Show the jobs that processes of a lifecycle directory had in hand when they were killed
///
/// Only a process with `recover_jobs = true` records them. The next Sidekiq with that setting that starts with this directory
/// puts back those that wait. docs/lost-jobs.md has the details.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    directory: DirArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The version of the JSON; it increases when a field changes its meaning or is removed.
const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    directory: &'a str,
    recorded: bool,
    jobs: &'a [KilledJob],
    unreadable_jobs: usize,
    unreadable_recorders: Vec<UnreadableRecorder<'a>>,
}

#[derive(Debug, Serialize)]
struct UnreadableRecorder<'a> {
    name: &'a str,
    reason: &'a str,
}

/// Prints them.
///
/// # Errors
/// The output cannot be written because its reader has exited.
pub fn main(out: &mut impl Write, options: Options) -> io::Result<ExitCode> {
    let Options { directory, json } = options;
    let directory = directory.directory();
    let killed = match directory.killed_jobs() {
        Ok(killed) => killed,
        Err(Error::Missing(_)) => KilledJobs::default(),
        Err(error) => {
            print_error(&error.to_string());
            return Ok(ExitCode::FAILURE);
        }
    };
    let path = directory.path().to_string_lossy();
    if json {
        serde_json::to_writer_pretty(&mut *out, &report(&path, &killed))?;
        writeln!(out)?;
    } else {
        for line in lines(&path, &killed, now()) {
            writeln!(out, "{line}")?;
        }
    }
    let is_settled = waiting(&killed) == 0 && killed.unusable.is_empty();
    Ok(if is_settled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report<'a>(directory: &'a str, killed: &'a KilledJobs) -> Report<'a> {
    let unreadable = |(name, reason): &'a (String, String)| UnreadableRecorder { name, reason };
    Report {
        schema: SCHEMA,
        directory,
        recorded: killed.are_recorded,
        jobs: &killed.jobs,
        unreadable_jobs: killed.torn.iter().map(|(_, count)| count).sum(),
        unreadable_recorders: killed.unusable.iter().map(unreadable).collect(),
    }
}

fn waiting(killed: &KilledJobs) -> usize {
    killed.jobs.iter().filter(|job| job.outcome == Outcome::Waiting).count()
}

const HEADINGS: [&str; 5] = ["STARTED", "PROCESS", "QUEUE", "JOB", "OUTCOME"];

fn lines(directory: &str, killed: &KilledJobs, now: Timestamp) -> Vec<String> {
    let directory = one_line(directory);
    let rows: Vec<_> = killed.jobs.iter().map(|job| (row(job, now), tone(job))).collect();
    let mut lines = match (rows.is_empty(), killed.are_recorded) {
        (false, _) => table::format(&HEADINGS, &rows),
        (true, true) => vec![format!("No process of {directory} was killed while it had a job in hand.")],
        (true, false) => vec![format!(
            "No process of {directory} records its jobs, so it is not known whether any was lost; set recover_jobs = true."
        )],
    };
    for (pid, count) in &killed.torn {
        let jobs = jobs(u32::try_from(*count).unwrap_or(u32::MAX)).unwrap_or_default();
        lines.push(format!("{pid}: {jobs} cannot be read, because the process was killed while it recorded them"));
    }
    for (name, why) in &killed.unusable {
        lines.push(format!("{directory}/recorders/{name} cannot be read: {why}"));
    }
    let wait = match waiting(killed) {
        0 => return lines,
        1 => "1 job waits".to_owned(),
        count => format!("{count} jobs wait"),
    };
    lines.push(format!(
        "{wait}: start a Sidekiq with recover_jobs = true in {directory}, or run: \
         bundle exec sidekiq-lifecycle fleet recover --dir {directory}"
    ));
    lines
}

fn row(job: &KilledJob, now: Timestamp) -> Vec<String> {
    let started = job.started_at.map(|at| now.duration_since(at).as_secs_f64().max(0.0));
    let dash = || "-".to_owned();
    vec![
        started.map_or_else(dash, |age| format!("{} ago", duration::format(age))),
        job.process_name(),
        job.queue.clone().unwrap_or_else(dash),
        job.name(),
        job.outcome_in_words(now),
    ]
}

fn tone(job: &KilledJob) -> Tone {
    match job.outcome {
        Outcome::Waiting => Tone::Changing,
        Outcome::PutBack => Tone::Good,
        Outcome::Dead => Tone::Bad,
        Outcome::Kept => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::Job;

    #[test]
    fn what_is_said() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let none = KilledJobs::default();
        let recorded = KilledJobs { are_recorded: true, ..none.clone() };
        let waiting = KilledJob::waiting(Job::started("Report", "1a2b", "low", at(0)), 4711, false);
        let put_back = KilledJob { outcome: Outcome::PutBack, at: Some(at(50)), ..waiting.clone() };
        let with =
            |jobs: &[&KilledJob]| KilledJobs { jobs: jobs.iter().copied().cloned().collect(), ..recorded.clone() };
        for (killed, expected) in [
            (
                none,
                "No process of /d records its jobs, so it is not known whether any was lost; set recover_jobs = true.",
            ),
            (recorded.clone(), "No process of /d was killed while it had a job in hand."),
            (
                with(&[&put_back]),
                "STARTED    PROCESS  QUEUE  JOB          OUTCOME\n\
                 1 min ago  4711     low    Report 1a2b  put back 10 s ago",
            ),
            (
                with(&[&waiting, &put_back]),
                "STARTED    PROCESS  QUEUE  JOB          OUTCOME\n\
                 1 min ago  4711     low    Report 1a2b  waits to be put back\n\
                 1 min ago  4711     low    Report 1a2b  put back 10 s ago\n\
                 1 job waits: start a Sidekiq with recover_jobs = true in /d, or run: \
                 bundle exec sidekiq-lifecycle fleet recover --dir /d",
            ),
            (
                KilledJobs {
                    torn: vec![(7, 2)],
                    unusable: vec![("9-ab".to_owned(), "it is damaged".to_owned())],
                    ..recorded.clone()
                },
                "No process of /d was killed while it had a job in hand.\n\
                 7: 2 jobs cannot be read, because the process was killed while it recorded them\n\
                 /d/recorders/9-ab cannot be read: it is damaged",
            ),
        ] {
            let plain: Vec<String> =
                lines("/d", &killed, at(60)).iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect();
            assert_eq!(plain.join("\n"), expected);
        }
    }
}
