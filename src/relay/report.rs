//! What a relay reports once it has started.

use std::io;

use serde::{Deserialize, Serialize};

use crate::model::trace_denied::Refusal;

/// The report of a relay that has started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its process id; `None` if it was not needed.
    pub pid: Option<i32>,
    /// Why there is none, or which processes it may not trace, and why.
    pub refused: Vec<(i32, Refusal)>,
    /// Why it could not be started at all.
    pub failure: Option<String>,
}

impl Report {
    /// Of a relay that could not be started.
    #[must_use]
    pub fn of_failure(error: io::Error) -> Self {
        Self { failure: Some(error.to_string()), ..Self::default() }
    }
}
