//! Signals by name and number, and how an init changes signals and exit codes at its user's request.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;

/// The first and the last real-time signal, as `kill(1)` numbers them on Linux.
const REAL_TIME: (i32, i32) = (34, 64);

/// A signal by its number: an init also forwards the real-time signals, which [`Signal`] does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(i32);

impl Number {
    /// The signal of that number, if there can be one.
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        (1..=REAL_TIME.1).contains(&number).then_some(Self(number))
    }

    /// The system's number.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }

    /// Whether it is one of those.
    #[must_use]
    pub fn is_in(self, signals: &[Signal]) -> bool {
        signals.iter().any(|signal| self.0 == *signal as i32)
    }
}

impl From<Signal> for Number {
    fn from(signal: Signal) -> Self {
        Self(signal as i32)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(self.0) {
            Ok(signal) => out.pad(signal.as_str()),
            Err(_) if self.0 >= REAL_TIME.0 => write!(out, "SIGRTMIN+{}", self.0 - REAL_TIME.0),
            Err(_) => write!(out, "signal {}", self.0),
        }
    }
}

/// A name with or without SIG, a number, `RTMIN+n` or `RTMAX-n`.
impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |digits: &str| if digits.is_empty() { Some(0) } else { digits.get(1..)?.parse().ok() };
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => offset(rest).map(|n: i32| REAL_TIME.0 + n),
            (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => offset(rest).map(|n: i32| REAL_TIME.1 - n),
            _ => match Signal::from_str(&format!("SIG{name}")) {
                Ok(signal) => Some(signal as i32),
                Err(_) => text.parse().ok(),
            },
        };
        let number = number.and_then(Self::new);
        number.ok_or_else(|| format!("there is no signal '{text}'; write a name such as TERM, or a number"))
    }
}

/// One signal that is forwarded as another, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalRewrite {
    from: Number,
    to: Option<Number>,
}

/// `TERM:TSTP`; `TERM:` and `TERM:0` drop the signal.
impl FromStr for SignalRewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once(':').ok_or("write FROM:TO, such as TERM:TSTP, or TERM: to drop it")?;
        let from: Number = from.parse()?;
        if from.is_in(&[Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGCHLD]) {
            return Err(format!("{from} is never forwarded, so it cannot be mapped"));
        }
        let to = if matches!(to, "" | "0") { None } else { Some(to.parse()?) };
        Ok(Self { from, to })
    }
}

/// The signal to forward; the last mapping for the signal is used.
#[must_use]
pub fn signal(rewrites: &[SignalRewrite], arrived: Number) -> Option<Number> {
    rewrites.iter().rev().find(|rewrite| rewrite.from == arrived).map_or(Some(arrived), |rewrite| rewrite.to)
}

/// One exit code that is replaced by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRewrite {
    from: u8,
    to: u8,
}

/// `143:0`; a code alone becomes 0, as with tini's `-e`.
impl FromStr for CodeRewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let code = |text: &str| text.parse().map_err(|_| "write FROM:TO, two exit codes from 0 to 255, such as 143:0");
        let (from, to) = text.split_once(':').unwrap_or((text, "0"));
        Ok(Self { from: code(from)?, to: code(to)? })
    }
}

/// The exit code to end with; the last mapping for the code is used.
#[must_use]
pub fn code(rewrites: &[CodeRewrite], code: u8) -> u8 {
    rewrites.iter().rev().find(|rewrite| rewrite.from == code).map_or(code, |rewrite| rewrite.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number, name) in [
            ("TERM", 15, "SIGTERM"),
            ("SIGTERM", 15, "SIGTERM"),
            ("sigint", 2, "SIGINT"),
            ("9", 9, "SIGKILL"),
            ("RTMIN", 34, "SIGRTMIN+0"),
            ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
            ("RTMAX-1", 63, "SIGRTMIN+29"),
            ("RTMAX", 64, "SIGRTMIN+30"),
            ("33", 33, "signal 33"),
        ] {
            let parsed: Number = text.parse().unwrap();
            assert_eq!((parsed.raw(), parsed.to_string().as_str()), (number, name), "{text}");
        }
        for wrong in ["", "0", "65", "-1", "SIG", "SIG15", "TERMS", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+x"] {
            assert!(wrong.parse::<Number>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn signal_rewrites() {
        let term = Number::from(Signal::SIGTERM);
        let table: &[(&[&str], Option<Signal>)] = &[
            (&[], Some(Signal::SIGTERM)),
            (&["TERM:TSTP"], Some(Signal::SIGTSTP)),
            (&["15:3"], Some(Signal::SIGQUIT)),
            (&["INT:QUIT"], Some(Signal::SIGTERM)),
            (&["TERM:"], None),
            (&["SIGTERM:0"], None),
            (&["TERM:", "TERM:INT"], Some(Signal::SIGINT)),
            // One step: the result is not mapped again.
            (&["TERM:INT", "INT:QUIT"], Some(Signal::SIGINT)),
        ];
        for (texts, expected) in table {
            let rewrites: Vec<SignalRewrite> = texts.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(signal(&rewrites, term), expected.map(Number::from), "{texts:?}");
        }
        for wrong in ["TERM", "", ":TERM", "TERM:NOPE", "KILL:TERM", "STOP:", "CHLD:TERM", "TERM:INT:QUIT"] {
            assert!(wrong.parse::<SignalRewrite>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn code_rewrites() {
        for (texts, from, to) in [
            (&[][..], 143, 143),
            (&["143:0"], 143, 0),
            (&["143"], 143, 0),
            (&["143:0"], 1, 1),
            (&["0:7", "1:0"], 0, 7),
            (&["1:2", "1:3"], 1, 3),
        ] {
            let rewrites: Vec<CodeRewrite> = texts.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(code(&rewrites, from), to, "{texts:?}");
        }
        for wrong in ["", ":", "256", "-1:0", "1:256", "one:0", "1:2:3"] {
            assert!(wrong.parse::<CodeRewrite>().is_err(), "{wrong}");
        }
    }
}
