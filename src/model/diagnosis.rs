//! The doctor's verdict on a Sidekiq: whether it loses jobs when it is stopped.

use std::fmt;

use serde::Serialize;

use crate::model::signal_path::{Fate, Handling, Path, Request};
use crate::model::stop_timeout::Fit;

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A SIGTERM reaches Sidekiq, and leaves it enough time.
    Safe,
    /// Something decisive is not visible.
    Unknown,
    /// Jobs are lost.
    LosesJobs,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Safe => "safe",
            Self::Unknown => "could not tell",
            Self::LosesJobs => "loses jobs on stop",
        })
    }
}

/// What is known of a Sidekiq.
#[derive(Clone, Copy, Debug)]
pub struct Findings<'a> {
    /// The signal path, with the relay if there is one.
    pub path: &'a Path,
    /// Why the relay does not help, where it does not.
    pub no_relay: Option<&'a str>,
    /// Whether Sidekiq has enough time to stop.
    pub time: &'a Fit,
    /// The application is still loading, so nothing is final.
    pub is_booting: bool,
    /// Sidekiq is part of another program, which must stop it.
    pub is_embedded: bool,
    /// What became of a real SIGTERM, if one was sent.
    pub measured: Option<Fate>,
}

/// A verdict and its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The answer.
    pub verdict: Verdict,
    /// Why, in clauses that can be joined.
    pub reasons: Vec<String>,
    /// What to change, in a form that can be pasted.
    pub fix: Option<String>,
    /// Other findings, which lose no job.
    pub remarks: Vec<String>,
}

/// Makes the diagnosis. A measurement overrides the judgement of the path.
#[must_use]
pub fn judge(findings: &Findings<'_>) -> Diagnosis {
    let Findings { path, no_relay, time, is_booting, is_embedded, measured } = *findings;
    let (judged, index) = path.fate(Request::Stop);
    let mut diagnosis = Diagnosis { verdict: Verdict::Safe, reasons: Vec::new(), fix: None, remarks: Vec::new() };
    let fate = measured.unwrap_or(judged);
    let top = path.links().last().map(|link| link.title()).unwrap_or_default();
    let culprit = path.links().get(index).map(|link| format!("{} {}", link.title(), link.verdict(Request::Stop)));
    let culprit = culprit.unwrap_or_default();

    match (path.links().first(), fate) {
        (None, _) => diagnosis.add(Verdict::Unknown, "the process is not visible in /proc".to_owned()),
        (Some(worker), _) if worker.term != Handling::Handled && measured.is_none() => {
            let how = match worker.term {
                Handling::Blocked => "blocks",
                Handling::Ignored => "ignores",
                // Ruby has a handler from its start.
                Handling::Default | Handling::Handled => "has no handler for",
            };
            diagnosis.add(Verdict::LosesJobs, format!("Sidekiq {how} TERM"));
            diagnosis.fix = Some("find what does that: the application, or the program that starts Sidekiq".to_owned());
        }
        (_, Fate::Lost) if path.beside().is_some() && measured.is_none() => {
            diagnosis.add(Verdict::LosesJobs, path.beside().unwrap_or_default().to_owned());
        }
        (_, Fate::Arrives) if is_embedded => {
            let reason = "Sidekiq is embedded in another program, which must stop it on SIGTERM";
            diagnosis.add(Verdict::Unknown, reason.to_owned());
        }
        (_, Fate::Arrives) => {}
        (_, Fate::Unknown) => diagnosis.add(Verdict::Unknown, culprit),
        (_, fate) => {
            let why = no_relay.map(|why| format!(", and there is no relay: {why}")).unwrap_or_default();
            diagnosis.add(Verdict::LosesJobs, format!("a SIGTERM sent to {top} {fate}{why}"));
        }
    }
    if let (Some(measured), true) = (measured, measured.is_some_and(|fate| fate != judged)) {
        let remark = format!("judged from outside, a SIGTERM {judged}; a real one {measured}");
        diagnosis.remarks.push(remark);
    }
    if fate != Fate::Arrives && diagnosis.fix.is_none() {
        diagnosis.fix = path.fix_in_full().map(|fix| format!("to fix it, {fix}"));
    }
    match time {
        Fit::Fits(_) => {}
        Fit::TooShort(words) => diagnosis.add(Verdict::LosesJobs, words.clone()),
        Fit::Unknown(words) if diagnosis.verdict < Verdict::LosesJobs => diagnosis.add(Verdict::Unknown, words.clone()),
        Fit::Unknown(_) => {}
    }
    if is_booting && diagnosis.verdict == Verdict::Safe {
        diagnosis.add(Verdict::Unknown, "it is still booting; run the doctor again when it is ready".to_owned());
    }
    diagnosis.remarks.extend(tstp(path));
    diagnosis
}

impl Diagnosis {
    /// What is known takes precedence over what is not.
    fn add(&mut self, verdict: Verdict, reason: String) {
        if verdict > self.verdict {
            self.verdict = verdict;
            self.remarks.append(&mut self.reasons);
            self.fix = None;
        }
        self.reasons.push(reason);
    }
}

/// TSTP loses no job by itself. It is mentioned only if it does worse than TERM.
fn tstp(path: &Path) -> Option<String> {
    let (fate, index) = path.fate(Request::Quiet);
    let link = path.links().get(index).filter(|_| fate.is_bad() && !path.fate(Request::Stop).0.is_bad())?;
    let top = path.links().last()?;
    Some(format!("a SIGTSTP sent to {} {fate}: {} {}", top.title(), link.title(), link.verdict(Request::Quiet)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::program::Program;
    use crate::model::signal_path::Link;

    fn link(pid: i32, program: Program, term: Handling) -> Link {
        Link {
            pid,
            program,
            name: program.to_string(),
            is_first: pid == 1,
            is_pid1: pid == 1,
            term,
            tstp: term,
            group: pid,
            threads: 1,
            ..Link::default()
        }
    }

    #[test]
    fn answers() {
        use Handling::{Blocked, Default, Handled, Ignored};
        use Program::{Catatonit, Other, Shell, Tini};
        use Verdict::{LosesJobs, Safe, Unknown};
        let worker = |term| link(9, Other, term);
        let lone = || Path::new(vec![worker(Handled)]);
        let below = |program, term| Path::new(vec![worker(Handled), link(1, program, term)]);
        type Row<'a> = (&'a str, Path, bool, Fit, Option<Fate>, Verdict, &'a str);
        let fits = || Fit::Fits(String::new());
        let short = || Fit::TooShort("-t 25 does not fit".to_owned());
        let unknown = || Fit::Unknown("the stop timeout is not known".to_owned());
        let table: &[Row<'_>] = &[
            ("alone", lone(), false, fits(), None, Safe, ""),
            ("tini", below(Tini, Blocked), false, fits(), None, Safe, ""),
            ("sh", below(Shell, Default), false, fits(), None, LosesJobs, "a SIGTERM sent to a shell (pid 1) is lost"),
            ("no time", lone(), false, short(), None, LosesJobs, "-t 25 does not fit"),
            ("sh, no time", below(Shell, Default), false, short(), None, LosesJobs, "-t 25 does not fit"),
            (
                "a trap",
                below(Other, Handled),
                false,
                fits(),
                None,
                Unknown,
                "handles TERM in a way that is not visible",
            ),
            ("a trap, tried", below(Other, Handled), false, fits(), Some(Fate::Arrives), Safe, ""),
            (
                "a trap, tried, killed early",
                below(Other, Handled),
                false,
                fits(),
                Some(Fate::CutShort),
                LosesJobs,
                "is killed before",
            ),
            ("tini, wrongly judged", below(Tini, Blocked), false, fits(), Some(Fate::Lost), LosesJobs, "is lost"),
            ("sh, wrongly judged", below(Shell, Default), false, fits(), Some(Fate::Arrives), Safe, ""),
            ("a trap, no time", below(Other, Handled), false, short(), None, LosesJobs, "-t 25 does not fit"),
            ("blocked", Path::new(vec![worker(Blocked)]), false, fits(), None, LosesJobs, "Sidekiq blocks TERM"),
            ("ignored", Path::new(vec![worker(Ignored)]), false, fits(), None, LosesJobs, "Sidekiq ignores TERM"),
            (
                "no handler",
                Path::new(vec![worker(Default)]),
                false,
                fits(),
                None,
                LosesJobs,
                "Sidekiq has no handler for TERM",
            ),
            ("embedded", lone(), true, fits(), None, Unknown, "embedded"),
            ("catatonit", below(Catatonit, Blocked), false, fits(), None, Safe, ""),
            ("alone, unknown time", lone(), false, unknown(), None, Unknown, "the stop timeout is not known"),
            ("tried, unknown time", lone(), false, unknown(), Some(Fate::Arrives), Unknown, "is not known"),
            ("a trap, unknown time", below(Other, Handled), false, unknown(), None, Unknown, "is not known"),
            ("sh, unknown time", below(Shell, Default), false, unknown(), None, LosesJobs, "is lost"),
            ("nothing seen", Path::new(vec![]), false, fits(), None, Unknown, "is not visible"),
        ];
        for (name, path, is_embedded, time, measured, verdict, reason) in table {
            let is_embedded = *is_embedded;
            let findings = Findings { path, no_relay: None, time, is_booting: false, is_embedded, measured: *measured };
            let diagnosis = judge(&findings);
            assert_eq!(diagnosis.verdict, *verdict, "{name}: {diagnosis:?}");
            let reasons = diagnosis.reasons.join("; ");
            assert!(reasons.contains(reason) && reasons.is_empty() == reason.is_empty(), "{name}: {reasons}");
        }
    }

    #[test]
    fn remarks_and_fixes() {
        let worker = || link(9, Program::Other, Handling::Handled);
        let path = Path::new(vec![worker(), link(1, Program::Catatonit, Handling::Blocked)]);
        let time = Fit::Fits(String::new());
        let findings = Findings {
            path: &path,
            no_relay: None,
            time: &time,
            is_booting: false,
            is_embedded: false,
            measured: None,
        };
        let remarks = judge(&findings).remarks;
        assert!(
            remarks.len() == 1 && remarks[0].contains("a SIGTSTP sent to catatonit (pid 1) is lost"),
            "{remarks:?}"
        );
        let remarks = judge(&Findings { measured: Some(Fate::Lost), ..findings }).remarks;
        assert_eq!(remarks[0], "judged from outside, a SIGTERM arrives; a real one is lost");

        let path = Path::new(vec![worker(), link(1, Program::Shell, Handling::Default)]);
        let diagnosis = judge(&Findings { path: &path, no_relay: Some("it is off"), ..findings });
        assert_eq!(diagnosis.fix.unwrap()[..17], *"to fix it, put ex");
        assert!(diagnosis.reasons[0].ends_with("is lost, and there is no relay: it is off"));
        assert_eq!(diagnosis.remarks, [] as [String; 0]);
    }

    #[test]
    fn a_booting_process_is_not_safe_yet() {
        let path = Path::new(vec![link(9, Program::Other, Handling::Handled)]);
        let time = Fit::Fits(String::new());
        let findings =
            Findings { path: &path, no_relay: None, time: &time, is_booting: true, is_embedded: false, measured: None };
        assert_eq!(judge(&findings).verdict, Verdict::Unknown);
    }

    #[test]
    fn the_worst_verdict_wins() {
        assert_eq!([Verdict::Unknown, Verdict::LosesJobs, Verdict::Safe].iter().max(), Some(&Verdict::LosesJobs));
    }
}
