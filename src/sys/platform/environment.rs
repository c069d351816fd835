//! The stop timeout in the environment.

use std::env;

use crate::model::duration;
use crate::model::stop_timeout::{Source, StopTimeout};

/// What the environment may say of it, and who does; the first one that does counts.
const VARIABLES: [(&str, Source); 2] =
    [("SIDEKIQ_LIFECYCLE_STOP_TIMEOUT", Source::Environment), ("ECS_CONTAINER_STOP_TIMEOUT", Source::Ecs)];

/// The stop timeout as the environment tells it.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn stop_timeout_of_environment() -> Result<Option<StopTimeout>, String> {
    in_variables(|name| Some(env::var_os(name)?.to_string_lossy().into_owned()))
}

/// The same of any environment: `variable` tells the value of one.
pub(super) fn in_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<StopTimeout>, String> {
    let set = VARIABLES
        .into_iter()
        .find_map(|(name, source)| Some((name, variable(name).filter(|text| !text.is_empty())?, source)));
    let Some((name, text, source)) = set else { return Ok(None) };
    match duration::parse_positive(&text) {
        Some(seconds) => Ok(Some(StopTimeout { seconds, source })),
        None => Err(format!("${name} is {text:?}; write a duration such as 30s or 2m, or a number of seconds above 0")),
    }
}

/// The stop timeout, as far as it can be known without asking anybody; `setting` is `lifecycle.stop_timeout`.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn stop_timeout(setting: Option<f64>) -> Result<Option<StopTimeout>, String> {
    let set = setting.map(|seconds| StopTimeout { seconds, source: Source::Setting });
    set.map_or_else(stop_timeout_of_environment, |set| Ok(Some(set)))
}
