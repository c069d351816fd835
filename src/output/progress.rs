//! What people see of something that takes its time: a bar, what is going on, the time passed and left.
//!
//! On a terminal a few lines at the bottom are redrawn; elsewhere each message is a plain line, once. All of it goes
//! to standard error: standard output is for the result. Ruby uses it through [`ProgressThread`].

use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use console::{Term, colors_enabled_stderr, measure_text_width, style, truncate_str};

use crate::model::duration;
use crate::model::text::one_line;

/// How often it is redrawn, because time passes.
pub const TICK: Duration = Duration::from_secs(1);

const BAR: usize = 20;
/// From the cursor's line to the end of the screen.
const CLEAR: &str = "\r\x1b[J";

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// How many are where they are to be.
    pub done: usize,
    /// Of how many.
    pub total: usize,
    /// What is going on, in one line.
    pub message: String,
    /// More of it, a line each; shown on a terminal only.
    pub notes: Vec<String>,
    /// Seconds that it may take at all; `None`: as long as it takes.
    pub timeout: Option<f64>,
    /// Seconds ago it began.
    pub begun: f64,
}

/// Shows steps on standard error. What it has drawn is gone when it is dropped.
#[derive(Debug)]
pub struct Progress {
    term: Term,
    is_terminal: bool,
    is_drawn: bool,
    /// Off a terminal: what was said last, and when.
    said: Option<(String, Instant)>,
    is_behind: bool,
}

impl Default for Progress {
    fn default() -> Self {
        let term = Term::stderr();
        let is_terminal = can_draw(&term);
        Self { term, is_terminal, is_drawn: false, said: None, is_behind: false }
    }
}

/// Whether something can be redrawn there.
#[must_use]
pub fn can_draw(term: &Term) -> bool {
    term.is_term() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

impl Progress {
    /// When it wants to be shown the next time, whether or not anything has happened; `None`: not before that.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        (self.is_terminal || self.is_behind).then_some(TICK)
    }

    /// Shows a step. That nobody can read it stops nothing.
    pub fn show(&mut self, step: &Step) {
        if self.is_terminal {
            let (height, width) = self.term.size();
            let lines = lines(step, usize::from(width), usize::from(height), colors_enabled_stderr());
            let _ = self.term.write_str(&drawing(&lines));
            self.is_drawn = true;
            return;
        }
        // A log does not want more than a line a second.
        let is_known = self.said.as_ref().is_some_and(|(said, _)| *said == step.message);
        self.is_behind = !is_known && self.said.as_ref().is_some_and(|(_, since)| since.elapsed() < TICK);
        if !is_known && !self.is_behind {
            self.say(&step.message);
            self.said = Some((step.message.clone(), Instant::now()));
        }
    }

    /// Prints a line that stays.
    pub fn say(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "{}", one_line(text));
    }

    fn clear(&mut self) {
        if mem::take(&mut self.is_drawn) {
            let _ = self.term.write_str(CLEAR);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Draws over what was drawn before, and leaves the cursor where it began. There it stays when the terminal changes its size,
/// however that breaks the lines below; counted rows would be other ones by then.
fn drawing(lines: &[String]) -> String {
    let back = match lines.len() {
        0 | 1 => String::new(),
        rows => format!("\x1b[{}A", rows - 1),
    };
    format!("{CLEAR}{}\r{back}", lines.join("\r\n"))
}

fn lines(step: &Step, width: usize, height: usize, has_colour: bool) -> Vec<String> {
    // A terminal without a size gets the usual one. The last column is left free, because some terminals break the line there.
    let width = if width == 0 { 79 } else { width.saturating_sub(1).max(1) };
    let height = if height == 0 { 23 } else { height.saturating_sub(1).max(1) };
    let first = first_line(step, width, has_colour);
    let notes = step.notes.iter().map(|note| format!("  {}", one_line(note)));
    let all = std::iter::once(first).chain(notes).take(height);
    all.map(|line| truncate_str(&line, width, "…").into_owned()).collect()
}

/// What has no room goes in this order: the bar, the end of the message, the time.
fn first_line(step: &Step, width: usize, has_colour: bool) -> String {
    let (message, time) = (one_line(&step.message), time(step));
    let text = format!("{message}  {time}");
    if step.total > 0 && BAR + "[] ".len() + measure_text_width(&text) <= width {
        let bar = style(bar(step.done, step.total)).green().force_styling(has_colour);
        return format!("{bar} {text}");
    }
    let room = width.saturating_sub(measure_text_width(&time) + 2);
    format!("{}  {time}", truncate_str(&message, room, "…"))
}

fn bar(done: usize, total: usize) -> String {
    let filled = (BAR * done.min(total)).checked_div(total).unwrap_or_default();
    format!("[{:<BAR$}]", "=".repeat(filled))
}

fn time(step: &Step) -> String {
    let passed = duration::format(step.begun);
    match step.timeout {
        Some(timeout) => format!("{passed}, {} left", duration::format((timeout - step.begun).max(0.0))),
        None => passed,
    }
}

/// Shows progress for a caller that does not redraw it: a thread of its own does, each second.
#[derive(Debug)]
pub struct ProgressThread {
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Message {
    Step(Step),
    Line(String),
}

impl ProgressThread {
    /// Starts the thread. `spawn` decides with which signal mask.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = spawn(Box::new(move || draw(&receiver)))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Shows a step.
    pub fn show(&self, step: Step) {
        self.send(Message::Step(step));
    }

    /// Prints a line that stays.
    pub fn print(&self, line: String) {
        self.send(Message::Line(line));
    }

    /// Removes what is drawn, and waits until it is gone.
    pub fn close(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn send(&self, message: Message) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(message);
        }
    }
}

impl Drop for ProgressThread {
    fn drop(&mut self) {
        self.close();
    }
}

fn draw(receiver: &Receiver<Message>) {
    let mut progress = Progress::default();
    let mut current: Option<(Step, Instant)> = None;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(Message::Line(line)) => progress.say(&line),
            Ok(Message::Step(step)) => current = Some((step, Instant::now())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if let Some((step, since)) = &current {
            progress.show(&Step { begun: step.begun + since.elapsed().as_secs_f64(), ..step.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            done: 13,
            total: 20,
            message: "13 of 20 drained, 25 jobs running".to_owned(),
            notes: vec!["slowest: HardJob\nfor 12 min".to_owned(), "second".to_owned()],
            timeout: Some(600.0),
            begun: 63.4,
        }
    }

    #[test]
    fn what_is_drawn_fits() {
        let all = lines(&step(), 120, 24, false);
        assert_eq!(
            all,
            [
                "[=============       ] 13 of 20 drained, 25 jobs running  1 min 3 s, 8 min 56 s left",
                "  slowest: HardJob for 12 min",
                "  second"
            ]
        );
        assert_eq!(lines(&step(), 60, 1, false), ["13 of 20 drained, 25 jobs runn…  1 min 3 s, 8 min 56 s left"]);
        assert_eq!(lines(&step(), 24, 3, false), ["…  1 min 3 s, 8 min 56…", "  slowest: HardJob for…"]);
        assert!(lines(&step(), 0, 0, false).iter().all(|line| measure_text_width(line) < 80));
        assert!(lines(&step(), 1, 1, true).iter().all(|line| measure_text_width(line) <= 1));
        assert!(lines(&step(), 120, 24, true)[0].contains("\u{1b}[32m"));
    }

    #[test]
    fn what_is_drawn_is_cleared_from_its_first_line_on() {
        let lines = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(drawing(&lines), "\r\x1b[Ja\r\nb\r\nc\r\x1b[2A");
        assert_eq!(drawing(&lines[..1]), "\r\x1b[Ja\r");
    }

    #[test]
    fn bars_and_times() {
        assert_eq!(bar(0, 0), format!("[{}]", " ".repeat(BAR)));
        assert_eq!(bar(3, 2), format!("[{}]", "=".repeat(BAR)));
        assert_eq!(time(&Step { timeout: None, ..step() }), "1 min 3 s");
        assert_eq!(time(&Step { timeout: Some(1.0), ..step() }), "1 min 3 s, 0 s left");
    }
}
