//! The operating system, without policy: everything that makes system calls, as plain values.

pub mod ancestry;
#[cfg(target_os = "linux")]
pub mod children;
pub mod claim;
pub mod descendants;
pub mod descriptors;
#[cfg(target_os = "linux")]
pub mod failsafe;
pub mod identity;
#[cfg(target_os = "linux")]
pub mod mailbox;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod notify_socket;
pub mod outputs;
#[cfg(target_os = "linux")]
pub mod pidfd;
pub mod platform;
pub mod procfs;
#[cfg(target_os = "linux")]
pub mod ptrace;
pub mod signals;
pub mod supervisord;
pub mod time_limit;
#[cfg(target_os = "linux")]
pub mod watch;
