//! The core of `sidekiq_lifecycle`: it owns what must be exact, fast, or still alive when Ruby is not.
//!
//! # Layout
//!
//! Three floors; a floor uses only those below it.
//!
//! | floor | rooms | knows |
//! |---|---|---|
//! | [`faces`] | the command line; the relay; the in-process lifecycle the Ruby binding drives | everything below; ties edges and rules together |
//! | [`edges`] | the lifecycle directory, status records, processes, signals, ptrace | the operating system; hands up plain values |
//! | [`rules`] | states, probes, the signal path | values only: no clock, no file, no process |

pub mod edges;
pub mod faces;
pub mod rules;

/// The version of the gem, the crate and the command; they are always the same.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
