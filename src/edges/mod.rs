//! The edges: everything that touches the operating system, handing up plain values.

#[cfg(target_os = "linux")]
pub mod children;
pub mod claim;
pub mod descriptors;
pub mod directory;
pub mod finder;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod notify;
pub mod outputs;
pub mod patience;
pub mod platform;
pub mod process;
pub mod record;
pub mod signals;
pub mod snapshot;
pub mod supervisord;
#[cfg(target_os = "linux")]
pub mod trace;
#[cfg(target_os = "linux")]
pub mod watch;
