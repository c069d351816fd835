//! `status --watch`: on a terminal a screen of its own, redrawn when something changes, each second for the ages, and when
//! the terminal changes its size; elsewhere the status is printed again when it changes.

use std::borrow::Cow;
use std::io::{self, Write};
use std::process::ExitCode;

use anstream::AutoStream;
use console::{Term, truncate_str};
use nix::sys::signal::{Signal, raise};

use super::table;
use crate::cli::target::Target;
use crate::model::probe::{MAX_BEAT_AGE, Probe};
use crate::output::print_error;
use crate::output::progress::{TICK, can_draw};
use crate::store::killed_jobs::look_into_recorders;
use crate::store::lookup::ObservedProcess;
use crate::store::report::Report;
use crate::sys::watch::{SLOW, Watch};

/// The screen that full-screen programs have to themselves, and back (xterm's private mode 1049, which all terminals know).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Shows the status until somebody ends it: 0, for nothing else was to come.
pub(super) fn watched(out: &mut impl Write, target: &Target, json: bool) -> io::Result<ExitCode> {
    let mut watch = Watch::open()?.with_reader();
    let term = Term::stdout();
    let mut screen = None;
    if can_draw(&term) && !json {
        watch.receive_pauses()?;
        screen = Some(Screen::enter(&term)?);
    }
    let mut shown = None;
    loop {
        // Before it is read: what changes later is told.
        target.directory().map(|directory| watch.directory(directory));
        let mut processes = match target.observe(false) {
            Ok(processes) => processes,
            Err(error) => {
                drop(screen);
                print_error(&error.to_string());
                return Ok(ExitCode::FAILURE);
            }
        };
        look_into_recorders(&mut processes);
        for directory in processes.iter().map(|process| process.directory.path()) {
            watch.directory(directory);
        }
        if let Some(screen) = &mut screen {
            screen.draw(target, &processes)?;
        } else if shown.as_ref() != Some(&news(&processes)) {
            shown = Some(news(&processes));
            if json {
                serde_json::to_writer(&mut *out, &Report::new(target.directory(), &processes))?;
                writeln!(out)?;
            } else {
                table::print(out, target, &processes)?;
            }
            out.flush()?;
        }
        let woken = watch.wait(&[], if screen.is_some() { TICK } else { SLOW })?;
        if woken.signal.is_some() || woken.is_unread {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(screen) = screen.as_mut().filter(|_| woken.is_to_pause) {
            screen.pause()?;
        }
    }
}

/// All that counts as a change: everything but what only says that time passes.
fn news(processes: &[ObservedProcess]) -> Vec<String> {
    let still = |process: &ObservedProcess| {
        let record = process.record.clone().map(|mut record| {
            (record.beat, record.beat_monotonic) = (None, None);
            // Which jobs run is no change of the process; how many is.
            record.jobs.running.clear();
            record
        });
        let is_live = process.facts().answer(Probe::Live, MAX_BEAT_AGE).is_ok();
        format!("{} {:?} {is_live} {record:?}", process.pid, process.presence)
    };
    processes.iter().map(still).collect()
}

struct Screen<'a> {
    term: &'a Term,
}

impl<'a> Screen<'a> {
    fn enter(term: &'a Term) -> io::Result<Self> {
        term.write_str(ENTER)?;
        Ok(Self { term })
    }

    /// Gives the terminal back for as long as somebody else has it.
    fn pause(&mut self) -> io::Result<()> {
        self.term.write_str(LEAVE)?;
        // Comes back with the SIGCONT that fg sends.
        raise(Signal::SIGSTOP)?;
        self.term.write_str(ENTER)
    }

    /// Each line is cut to the width that the terminal has now: nothing ever wraps.
    fn draw(&mut self, target: &Target, processes: &[ObservedProcess]) -> io::Result<()> {
        let mut table = AutoStream::new(Vec::new(), AutoStream::choice(&io::stdout()));
        table::print(&mut table, target, processes)?;
        let (height, width) = self.term.size();
        let table = String::from_utf8_lossy(&table.into_inner()).into_owned();
        let lines = fitting(table.lines().collect(), usize::from(height).max(1));
        let lines = lines.iter().map(|line| truncate_str(line, usize::from(width), "…"));
        let lines: Vec<String> = lines.map(|line| format!("{line}{REST_OF_LINE}")).collect();
        self.term.write_str(&format!("{HOME}{}{REST_OF_SCREEN}", lines.join("\r\n")))
    }
}

/// What has room, and how much more there is.
fn fitting(mut lines: Vec<&str>, height: usize) -> Vec<Cow<'_, str>> {
    let more = match lines.len().saturating_sub(height) {
        0 => None,
        over => {
            lines.truncate(height.saturating_sub(1));
            Some(format!("and {} more", over + 1))
        }
    };
    lines.into_iter().map(Cow::from).chain(more.map(Cow::from)).collect()
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = self.term.write_str(LEAVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted() {
        let lines = vec!["PID", "1", "2", "3"];
        assert_eq!(fitting(lines.clone(), 4), ["PID", "1", "2", "3"]);
        assert_eq!(fitting(lines.clone(), 3), ["PID", "1", "and 2 more"]);
        assert_eq!(fitting(lines, 1), ["and 4 more"]);
    }
}
