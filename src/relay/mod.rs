//! The relay: a separate process that forwards signals past the shells between Sidekiq and PID 1.
//!
//! It is not a child of Sidekiq, so no job that waits for its children waits for it. It has none of Sidekiq's
//! descriptors, so it keeps no pipe open. It ends with its worker. If it is killed, the kernel releases the shells,
//! and they run on as if there had been no relay.

mod delivery;
pub mod launch;
mod peers;
pub mod process;
pub mod report;
mod state;
mod tracing;
