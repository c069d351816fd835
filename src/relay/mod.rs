//! The relay: a process of its own that forwards signals past the shells between Sidekiq and PID 1.
//!
//! It is not a child of Sidekiq's, so that no job that waits for its children waits for it. It has none of its descriptors,
//! so that no pipe stays open because of it. It ends with its worker. If it is killed, the kernel releases the shells, and they run on as
//! if it had never been.

mod delivery;
pub mod launch;
mod peers;
pub mod process;
pub mod report;
mod state;
mod tracing;
