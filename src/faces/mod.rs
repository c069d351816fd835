//! The faces: what other programs and people meet.

pub mod command;
#[cfg(target_os = "linux")]
pub mod doctor;
pub mod fleet;
pub mod generate;
mod hand_over;
pub mod init;
pub mod lifecycle;
mod manual;
pub mod progress;
#[cfg(target_os = "linux")]
pub mod relay;
pub mod report;
#[cfg(target_os = "linux")]
mod screen;
pub mod signal_path;
pub mod status;
pub mod steer;
pub mod who;
mod writer;
