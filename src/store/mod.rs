//! The lifecycle directory: what a Sidekiq publishes there, and how others find it.

pub mod directory;
pub mod lookup;
pub mod record;
pub mod report;
