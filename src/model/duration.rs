//! Durations: as people and platforms write them, and formatted for people.

use std::time::Duration;

/// Parses `$SIDEKIQ_LIFECYCLE_STOP_TIMEOUT` or `$ECS_CONTAINER_STOP_TIMEOUT`: a duration as Go writes it ("30s",
/// "1m30s"), or plain seconds.
#[must_use]
pub fn parse_positive(text: &str) -> Option<f64> {
    parse(text).filter(|seconds| *seconds > 0.0)
}

/// Parses a time as people write it: as in Go, or plain seconds.
#[must_use]
pub fn parse(text: &str) -> Option<f64> {
    let units = [("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)];
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_plain { text.parse().ok() } else { parse_units(text, &units) }
}

/// Parses a time span as systemctl(1) shows it: "1min 30s", "infinity" (systemd.time(7)).
#[must_use]
pub fn parse_systemd(text: &str) -> Option<f64> {
    let day = 86400.0;
    let units = [
        ("y", 365.25 * day),
        ("month", 30.4375 * day),
        ("w", 7.0 * day),
        ("d", day),
        ("h", 3600.0),
        ("min", 60.0),
        ("s", 1.0),
        ("ms", 1e-3),
        ("us", 1e-6),
    ];
    if text == "infinity" { Some(f64::INFINITY) } else { parse_units(text, &units) }
}

/// Numbers with a unit each, with or without spaces in between.
fn parse_units(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|letter: char| !letter.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after.trim_start();
    }
    Some(seconds)
}

/// Parses an option's value. 0 is an error.
///
/// # Errors
/// What to write instead.
pub fn parse_argument(text: &str) -> Result<Duration, String> {
    match parse_argument_or_zero(text)? {
        Duration::ZERO => Err("write a time above 0".to_owned()),
        time => Ok(time),
    }
}

/// Parses an option's value where 0 has a meaning.
///
/// # Errors
/// What to write instead.
pub fn parse_argument_or_zero(text: &str) -> Result<Duration, String> {
    let seconds = parse(text).ok_or("write a time, such as 90s, 10m, 1h30m, or plain seconds")?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| "the time is too long; omit the option to wait without a limit".to_owned())
}

/// A duration for people, in its two largest units, rounded down: `45 s`, `1 min 3 s`, `2 h`, `1 d 1 h`.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted here
pub fn format(seconds: f64) -> String {
    let seconds = seconds as u64;
    let units = [("d", seconds / 86400), ("h", seconds / 3600 % 24), ("min", seconds / 60 % 60), ("s", seconds % 60)];
    let largest = units.iter().position(|(_, count)| *count > 0).unwrap_or(units.len() - 1);
    let two = units.iter().skip(largest).take(2).enumerate().filter(|(index, (_, count))| *index == 0 || *count > 0);
    two.map(|(_, (unit, count))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (3599.0, "59 min 59 s"),
            (3661.0, "1 h 1 min"),
            (90061.0, "1 d 1 h"),
            (86400.0, "1 d"),
            (86430.0, "1 d"),
            (7200.0, "2 h"),
            (-1.0, "0 s"),
        ] {
            assert_eq!(format(seconds), text);
        }
    }

    #[test]
    fn durations_of_go() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("2m", 120.0),
            ("1m30s", 90.0),
            ("1.5h", 5400.0),
            ("1500ms", 1.5),
            ("1h2m3s", 3723.0),
            ("30", 30.0),
            ("0.5", 0.5),
        ] {
            assert_eq!(parse_positive(text), Some(seconds), "{text}");
        }
        for text in ["", "s", "30x", "-5s", "0", "0s", "1min", "30s!", "3.4.5s", "30 seconds"] {
            assert_eq!(parse_positive(text), None, "{text}");
        }
    }

    #[test]
    fn time_spans_of_systemd() {
        for (text, seconds) in [
            ("1min 30s", 90.0),
            ("500ms", 0.5),
            ("2h", 7200.0),
            ("infinity", f64::INFINITY),
            ("1w 1d", 691_200.0),
            ("0s", 0.0),
        ] {
            assert_eq!(parse_systemd(text), Some(seconds), "{text}");
        }
        for text in ["", "90", "soon", "1min 30"] {
            assert_eq!(parse_systemd(text), None, "{text}");
        }
    }

    #[test]
    fn arguments() {
        for (text, seconds) in
            [("90", 90.0), ("90s", 90.0), ("1h30m", 5400.0), ("0.5s", 0.5), ("0.5", 0.5), ("1d", f64::NAN)]
        {
            match parse_argument(text) {
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
            ("99999999999999999999999", "the time is too long"),
            ("99999999999999999999999h", "the time is too long"),
        ] {
            assert!(parse_argument(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }
}
