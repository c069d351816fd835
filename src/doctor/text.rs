//! The doctor's report, for people.

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};

use super::examination::{Examination, Link};
use super::report::Report;
use crate::model::diagnosis::Verdict;
use crate::model::signal_path::{Effect, Fate};
use crate::model::stop_timeout::Fit;
use crate::model::text::one_line;
use crate::store::health::Health;

/// Prints the report, for people or as JSON.
pub(super) fn print(out: &mut impl Write, report: &Report, json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return writeln!(out);
    }
    for sidekiq in &report.sidekiqs {
        let bold = Style::new().bold();
        writeln!(out, "{bold}{}{bold:#}\n", one_line(&title(sidekiq)))?;
        tree(out, &sidekiq.signal_path.links)?;
        writeln!(out)?;
        for (name, text, is_bad) in rows(sidekiq) {
            let style = if is_bad { yellow() } else { Style::new() };
            writeln!(out, "  {name:<9}  {style}{}{style:#}", one_line(&text))?;
        }
        writeln!(out)?;
    }
    let style = match report.verdict {
        Verdict::Safe => AnsiColor::Green.on_default(),
        Verdict::Unknown => yellow(),
        Verdict::LosesJobs => red(),
    };
    writeln!(out, "{style}{}{style:#}", one_line(&report.summary))
}

fn yellow() -> Style {
    AnsiColor::Yellow.on_default()
}

fn red() -> Style {
    AnsiColor::Red.on_default()
}

fn title(sidekiq: &Examination) -> String {
    let version = sidekiq.sidekiq.as_ref().map(|version| format!(" {version}"));
    let tag = sidekiq.tag.as_ref().map(|tag| format!(" ({tag})"));
    let own = sidekiq.own_pid.map(|pid| format!(" ({pid} in its container)"));
    let state = sidekiq.state.map(|state| format!(", {state}"));
    let gem = match (&sidekiq.gem, sidekiq.has_gem) {
        (Some(version), _) => format!(", with sidekiq_lifecycle {version}"),
        (None, Some(true)) => ", with sidekiq_lifecycle".to_owned(),
        (None, Some(false)) => ", without sidekiq_lifecycle".to_owned(),
        (None, None) => String::new(),
    };
    let [version, tag, own, state] = [version, tag, own, state].map(Option::unwrap_or_default);
    format!("Sidekiq{version}{tag}, pid {}{own}, uid {}{state}{gem}", sidekiq.pid, sidekiq.uid)
}

fn tree(out: &mut impl Write, links: &[Link]) -> io::Result<()> {
    let name = |depth: usize, link: &Link| match depth {
        0 => one_line(&link.title),
        depth => format!("{}└─ {}", "   ".repeat(depth - 1), one_line(&link.title)),
    };
    let names: Vec<String> = links.iter().enumerate().map(|(depth, link)| name(depth, link)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    for (name, link) in names.iter().zip(links) {
        let style = match link.term {
            _ if link.is_culprit => red(),
            Effect::Unknown | Effect::Traps => yellow(),
            _ => Style::new(),
        };
        writeln!(out, "  {name:<width$}  {style}{}{style:#}", one_line(&link.verdict))?;
        if let Some(verdict) = &link.tstp_verdict {
            writeln!(out, "  {:<width$}  {}{}{:#}", "", yellow(), one_line(verdict), yellow())?;
        }
    }
    Ok(())
}

/// Name, text, and whether something is wrong.
type Row = (&'static str, String, bool);

fn rows(sidekiq: &Examination) -> Vec<Row> {
    let mut rows = vec![relay(sidekiq), signals(sidekiq), time(sidekiq), directory(sidekiq)];
    let further = sidekiq.health.iter().flat_map(|health| &health.problems).map(|text| ("", text));
    let said = sidekiq.problems.iter().map(|problem| ("it reports", &problem.message));
    let remarks = sidekiq.diagnosis.remarks.iter().map(|text| ("note", text));
    let not_seen = sidekiq.not_seen.iter().map(|text| ("not seen", text));
    rows.extend(further.chain(said).chain(remarks).chain(not_seen).map(|(name, text)| (name, text.clone(), true)));
    if let Some(measured) = &sidekiq.measured {
        rows.push(("measured", measured.tstp.clone(), false));
        rows.push(("", measured.words.clone(), measured.fate != Some(Fate::Arrives)));
    }
    rows
}

fn relay(sidekiq: &Examination) -> Row {
    let relay = &sidekiq.relay;
    let does = match relay.forwards_past.as_slice() {
        [] => "forwards no signals, and delays the exit of programs until Sidekiq has ended".to_owned(),
        links => format!("forwards signals past {}", links.join(", ")),
    };
    let text = match (relay.pid, &relay.problem) {
        (None, None) => "none, and none is needed".to_owned(),
        (None, Some(problem)) => format!("none: {problem}"),
        (Some(pid), None) => format!("pid {pid} {does}"),
        (Some(pid), Some(problem)) => format!("pid {pid} {does}, but {problem}"),
    };
    ("relay", text, relay.problem.is_some())
}

fn signals(sidekiq: &Examination) -> Row {
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    let matters = |name: &String| ["TERM", "TSTP", "INT", "TTIN"].contains(&name.as_str());
    let is_bad = sidekiq.blocked.iter().chain(&sidekiq.ignored).any(matters);
    ("signals", format!("blocked: {}; ignored: {}", list(&sidekiq.blocked), list(&sidekiq.ignored)), is_bad)
}

fn time(sidekiq: &Examination) -> Row {
    match &sidekiq.time.fit {
        Fit::Fits(words) => ("time", words.clone(), false),
        Fit::TooShort(words) | Fit::Unknown(words) => ("time", words.clone(), true),
    }
}

fn directory(sidekiq: &Examination) -> Row {
    let path = sidekiq.directory.display();
    match &sidekiq.health {
        Some(health) => ("directory", format!("{path}{}", describe(health)), !health.problems.is_empty()),
        None if sidekiq.has_gem == Some(true) => {
            ("directory", format!("not registered in {path}; name its directory with --dir"), true)
        }
        None => ("directory", "none".to_owned(), false),
    }
}

fn describe(health: &Health) -> String {
    let owner = health.owner.map(|uid| format!(", owned by uid {uid}")).unwrap_or_default();
    let files = match (health.ready, health.drained) {
        (true, true) => "; ready and drained exist",
        (true, false) => "; ready exists",
        (false, true) => "; drained exists",
        (false, false) => "; neither ready nor drained exists",
    };
    let leftovers = match health.leftovers {
        0 => String::new(),
        1 => "; 1 leftover of a dead process, which the next start removes".to_owned(),
        count => format!("; {count} leftovers of dead processes, which the next start removes"),
    };
    let fine = if health.problems.is_empty() { ", which is correct" } else { "" };
    format!("{owner}{files}{fine}{leftovers}")
}
