//! The stop timeout in the environment.

use std::env;

use thiserror::Error;

use crate::model::duration;
use crate::model::stop_timeout::{Source, StopTimeout};
use crate::model::variables;

/// The variables that may have it, and what they are as a source; the first one that is set is used.
const VARIABLES: [(&str, Source); 2] =
    [(variables::STOP_TIMEOUT, Source::Environment), ("ECS_CONTAINER_STOP_TIMEOUT", Source::Ecs)];

/// A variable holds no duration.
#[derive(Debug, Error)]
#[error("${name} is {text:?}, not a duration; set it to a time above 0, such as 30s, 2m, or a plain number of seconds")]
pub struct NotADuration {
    name: &'static str,
    text: String,
}

/// The stop timeout from the environment.
///
/// # Errors
/// A variable holds no duration.
pub fn stop_timeout_of_environment() -> Result<Option<StopTimeout>, NotADuration> {
    in_variables(|name| Some(env::var_os(name)?.to_string_lossy().into_owned()))
}

/// The same for any environment: `variable` returns the value of one.
pub(super) fn in_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<StopTimeout>, NotADuration> {
    let set = VARIABLES
        .into_iter()
        .find_map(|(name, source)| Some((name, variable(name).filter(|text| !text.is_empty())?, source)));
    let Some((name, text, source)) = set else { return Ok(None) };
    match duration::parse_positive(&text) {
        Some(seconds) => Ok(Some(StopTimeout { seconds, source })),
        None => Err(NotADuration { name, text }),
    }
}

/// The stop timeout, as far as it is known without a query; `setting` is `lifecycle.stop_timeout`.
///
/// # Errors
/// A variable holds no duration.
pub fn stop_timeout(setting: Option<f64>) -> Result<Option<StopTimeout>, NotADuration> {
    let set = setting.map(|seconds| StopTimeout { seconds, source: Source::Setting });
    set.map_or_else(stop_timeout_of_environment, |set| Ok(Some(set)))
}
