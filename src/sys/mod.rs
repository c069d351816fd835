//! The operating system, without policy: everything that calls it, handing up plain values.

#[cfg(target_os = "linux")]
pub mod children;
pub mod claim;
pub mod descriptors;
pub mod identity;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod notify_socket;
pub mod outputs;
pub mod platform;
pub mod procfs;
pub mod signals;
pub mod supervisord;
pub mod time_limit;
#[cfg(target_os = "linux")]
pub mod trace;
#[cfg(target_os = "linux")]
pub mod watch;
