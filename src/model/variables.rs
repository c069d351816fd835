//! The names of our environment variables, for the core and for Ruby.

/// The lifecycle directory.
pub const DIRECTORY: &str = "SIDEKIQ_LIFECYCLE_DIR";

/// The address of the HTTP endpoint.
pub const HTTP: &str = "SIDEKIQ_LIFECYCLE_HTTP";

/// Whether there may be a relay: `auto` or `off`.
pub const SIGNAL_RELAY: &str = "SIDEKIQ_LIFECYCLE_SIGNAL_RELAY";

/// How long the platform waits between SIGTERM and SIGKILL.
pub const STOP_TIMEOUT: &str = "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT";

/// Set by the doctor: a stop takes as long as it may.
pub const TRIAL: &str = "SIDEKIQ_LIFECYCLE_TRIAL";
