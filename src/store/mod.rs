//! The lifecycle directory: what a Sidekiq records there, and how others find it.

pub mod directory;
pub mod entry;
pub mod error;
pub mod files;
pub mod health;
mod job_files;
pub mod kept_descriptors;
pub mod killed_jobs;
pub mod lookup;
pub mod metrics;
pub mod record;
mod record_name;
pub mod recorders;
pub mod report;
mod sentinel;
mod stop_request;
#[cfg(test)]
mod tests;
pub mod writing;
