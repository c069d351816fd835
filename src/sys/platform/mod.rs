//! What the platform says of the time that it leaves, and of how it stops a process: in the environment, or when it is
//! asked, as systemd and a container's engine are.

mod container_engine;
mod environment;
mod systemd;

pub use container_engine::engine_stop_timeout;
pub use environment::{stop_timeout, stop_timeout_of_environment};
pub use systemd::{Service, other_main_process, service};
