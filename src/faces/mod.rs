//! The faces: what other programs and people meet.

pub mod command;
pub mod lifecycle;
pub mod report;
