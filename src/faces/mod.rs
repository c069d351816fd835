//! The faces: what other programs and people meet.

pub mod command;
pub mod init;
pub mod lifecycle;
#[cfg(target_os = "linux")]
pub mod relay;
pub mod report;
pub mod signal_path;
