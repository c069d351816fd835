//! What `fleet` and `generate` need of the core: patterns, durations, tables and constants.

use magnus::{Error, Module, Object, RModule, Ruby, function};
use sidekiq_lifecycle::model::{duration, pattern, probe, stop_timeout, variables};
use sidekiq_lifecycle::output::table::{self, Tone};
use sidekiq_lifecycle::store::directory;

use crate::error::{guarded, raise};

/// The parts of a pattern: a field, or nil, and a glob each.
fn parse_pattern(ruby: &Ruby, text: String) -> Result<Vec<(Option<String>, String)>, Error> {
    guarded(ruby, || {
        let parts = pattern::parse(&text).map_err(|error| raise(ruby, error))?;
        Ok(parts.iter().map(|part| (part.field.map(str::to_owned), part.glob.to_owned())).collect())
    })
}

/// The lines of a table, from its headings, and its rows with the name of their tone each.
fn format_table(headings: Vec<String>, rows: Vec<(Vec<String>, String)>, is_coloured: bool) -> Vec<String> {
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let rows: Vec<_> = rows.into_iter().map(|(cells, tone)| (cells, Tone::named(&tone))).collect();
    if is_coloured { table::format(&headings, &rows) } else { table::format_plain(&headings, &rows) }
}

fn format_duration(seconds: f64) -> String {
    duration::format(seconds)
}

pub fn init(_: &Ruby, module: RModule) -> Result<(), Error> {
    module.const_set("SHUTDOWN_OVERHEAD", stop_timeout::EPILOGUE)?;
    module.const_set("DEFAULT_TIMEOUT", stop_timeout::DEFAULT_TIMEOUT)?;
    module.const_set("MAX_BEAT_AGE", probe::MAX_BEAT_AGE.as_secs())?;
    module.const_set("DEFAULT_DIRECTORY", directory::DEFAULT)?;
    module.const_set("DIRECTORY_VARIABLE", variables::DIRECTORY)?;
    module.const_set("HTTP_VARIABLE", variables::HTTP)?;
    module.const_set("SIGNAL_RELAY_VARIABLE", variables::SIGNAL_RELAY)?;
    module.const_set("TRIAL_VARIABLE", variables::TRIAL)?;
    module.const_set("PATTERN_FIELDS", pattern::FIELDS.to_vec())?;
    module.define_singleton_method("parse_pattern", function!(parse_pattern, 1))?;
    module.define_singleton_method("format_table", function!(format_table, 3))?;
    module.define_singleton_method("format_duration", function!(format_duration, 1))?;
    Ok(())
}
