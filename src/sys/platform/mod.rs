//! How much time the platform leaves, and how it stops a process: from the environment, or from systemd and a
//! container's engine.

mod container_engine;
mod environment;
mod systemd;

pub use container_engine::engine_stop_timeout;
pub use environment::{stop_timeout, stop_timeout_of_environment};
pub use systemd::{Service, other_main_process, service};
