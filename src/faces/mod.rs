//! The faces: what other programs and people meet.

pub mod command;
#[cfg(target_os = "linux")]
pub mod doctor;
pub mod init;
pub mod lifecycle;
#[cfg(target_os = "linux")]
pub mod relay;
pub mod report;
pub mod signal_path;
