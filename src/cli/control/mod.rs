//! `quiet`, `stop` and `wait`: signal processes, and wait until they have reached a goal.
//!
//! The set of processes is fixed when a command starts. A process is signalled only through a pidfd, and only
//! after its start time was compared with that of the record: a recycled pid is never signalled.

#[cfg(target_os = "linux")]
mod commands;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod commands;
#[cfg(target_os = "linux")]
mod error;
#[cfg(target_os = "linux")]
mod messages;
pub mod options;
#[cfg(target_os = "linux")]
mod outcome;
#[cfg(target_os = "linux")]
mod process_set;
#[cfg(target_os = "linux")]
mod waiter;

pub use commands::{quiet, stop, wait};
