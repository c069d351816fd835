//! The core of `sidekiq_lifecycle`: it owns what must be exact, fast, or still alive when Ruby is not.
//!
//! # Layout
//!
//! A module uses only those in rows above its own, which are the layers below it, and no two files import each other
//! (`tests/layers.rs`).
//! ARCHITECTURE.md says which file does what.
//!
//! | modules | what they are |
//! |---|---|
//! | [`model`] | the rules: states, probes, the signal path; plain values only: no clock, no file, no process |
//! | [`output`] | standard output and standard error: error lines, progress |
//! | [`sys`] | the operating system, without policy: /proc, signals, ptrace, pidfds, systemd's and Docker's sockets |
//! | [`store`] | the lifecycle directory: records, sentinels, and how a Sidekiq is found |
//! | `relay`, [`init`] | programs of their own: the process that forwards signals past shells, and `run` |
//! | [`worker`], `doctor` | inside a Sidekiq: what the Ruby binding drives; from outside: is its signal path safe? |
//! | [`cli`] | the command line |

pub mod cli;
#[cfg(target_os = "linux")]
pub mod doctor;
pub mod init;
pub mod model;
pub mod output;
#[cfg(target_os = "linux")]
pub mod relay;
pub mod store;
pub mod sys;
pub mod worker;

/// The version of the gem, the crate and the command; they are always the same.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
