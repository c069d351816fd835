//! A table for people, as `status` and `fleet status` print it.

use clap::builder::styling::{AnsiColor, Style};
use console::{Alignment, measure_text_width, pad_str, strip_ansi_codes};

use crate::model::text::one_line;

/// What a row's colour says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// All is well: green.
    Good,
    /// It is on its way to another state: yellow.
    Changing,
    /// Somebody should look at it: red.
    Bad,
    /// It is over: dimmed.
    Past,
    /// No colour.
    #[default]
    Plain,
}

impl Tone {
    /// The tone of that name, in lower case; any other name is `Plain`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "good" => Self::Good,
            "changing" => Self::Changing,
            "bad" => Self::Bad,
            "past" => Self::Past,
            _ => Self::Plain,
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Changing => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Past => Style::new().dimmed(),
            Self::Plain => Style::new(),
        }
    }
}

/// The lines of [`format()`] without the escape sequences.
#[must_use]
pub fn format_plain(headings: &[&str], rows: &[(Vec<String>, Tone)]) -> Vec<String> {
    format(headings, rows).iter().map(|line| strip_ansi_codes(line).into_owned()).collect()
}

/// The table's lines, with escape sequences for its colours. Each row has as many cells as there are headings.
#[must_use]
pub fn format(headings: &[&str], rows: &[(Vec<String>, Tone)]) -> Vec<String> {
    let headings = headings.iter().map(|&heading| heading.to_owned()).collect();
    let rows = rows.iter().map(|(cells, tone)| (cells.iter().map(|cell| one_line(cell)).collect(), tone.style()));
    let lines: Vec<(Vec<String>, Style)> = std::iter::once((headings, Style::new().bold())).chain(rows).collect();
    let mut widths = Vec::new();
    for (cells, _) in &lines {
        widths.resize(widths.len().max(cells.len()), 0);
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    let line = |(cells, style): &(Vec<String>, Style)| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None));
        format!("{style}{}{style:#}", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_show() {
        let row = |cells: [&str; 3], tone| (cells.map(str::to_owned).to_vec(), tone);
        let rows = [
            row(["1", "running", "-"], Tone::Good),
            row(["4711", "gone", "killed\nat night"], Tone::Bad),
            row(["2", "店", "-"], Tone::Plain),
        ];
        let expected = [
            "\u{1b}[1mPID   STATE    WHY\u{1b}[0m",
            "\u{1b}[32m1     running  -\u{1b}[0m",
            "\u{1b}[31m4711  gone     killed at night\u{1b}[0m",
            "2     店       -",
        ];
        assert_eq!(format(&["PID", "STATE", "WHY"], &rows), expected);
        assert_eq!(format_plain(&["PID", "STATE", "WHY"], &rows).concat().matches('\u{1b}').count(), 0);
    }

    #[test]
    fn headings_stand_alone() {
        assert_eq!(format(&["PID", "STATE"], &[]), ["\u{1b}[1mPID  STATE\u{1b}[0m"]);
    }

    #[test]
    fn tones_have_names() {
        let tones = ["good", "changing", "bad", "past", "plain", "?"].map(Tone::named);
        assert_eq!(tones, [Tone::Good, Tone::Changing, Tone::Bad, Tone::Past, Tone::Plain, Tone::Plain]);
    }
}
