//! The patterns by which the fleet's processes are selected: a shell glob, `FIELD=GLOB`, or several joined with commas.

use thiserror::Error;

/// The fields that a pattern can name.
pub const FIELDS: [&str; 7] = ["hostname", "tag", "label", "queue", "version", "process", "identity"];

/// One part of a pattern.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Compared with this field only; `None`: with each that fits.
    pub field: Option<&'a str>,
    /// A shell glob, not empty.
    pub glob: &'a str,
}

/// What is wrong with a pattern.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A part of it is empty.
    #[error("write a pattern, such as 'worker-*' or tag=shop")]
    Empty,
    /// There is no such field.
    #[error("there is no field {0}; use one of {fields}", fields = FIELDS.join(", "))]
    UnknownField(String),
}

/// Parses a pattern. All of its parts have to match.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Part<'_>>, Error> {
    text.split(',').map(parse_part).collect()
}

fn parse_part(text: &str) -> Result<Part<'_>, Error> {
    let (field, glob) = text.split_once('=').map_or((None, text), |(field, glob)| (Some(field), glob));
    if glob.is_empty() {
        return Err(Error::Empty);
    }
    match field.filter(|field| !FIELDS.contains(field)) {
        Some(field) => Err(Error::UnknownField(field.to_owned())),
        None => Ok(Part { field, glob }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let part = |field, glob| Part { field, glob };
        for (text, parts) in [
            ("worker-*", vec![part(None, "worker-*")]),
            ("tag=shop,queue=mail", vec![part(Some("tag"), "shop"), part(Some("queue"), "mail")]),
            ("identity=a:1:=b", vec![part(Some("identity"), "a:1:=b")]),
        ] {
            assert_eq!(parse(text), Ok(parts), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_pattern() {
        for text in ["", ",", "a,,b", "tag=", "a,"] {
            assert_eq!(parse(text), Err(Error::Empty), "{text}");
        }
        assert_eq!(parse("colour=red"), Err(Error::UnknownField("colour".to_owned())));
    }
}
