//! Signals, as the kernel sees them.
//!
//! Two things watch signals, one after the other:
//!
//! - The [boot guard](boot_guard), until Sidekiq has its traps: during the boot, Ruby's default (or an application's
//!   own trap) would end or suspend the process, or ignore the signal.
//! - The [`observer`], from then on: it notes a signal the moment it arrives, before Ruby runs its trap, and passes
//!   it on to Ruby.
//!
//! Both belong to the process that set them up. A forked child inherits handlers and pipe, so every handler first
//! checks whether it runs in its own process (`fork(2)`); in a child it does nothing of its own.
//!
//! Handlers do what `signal-safety(7)` allows and nothing else: atomics, `getpid`, `write`, `sigaction`, `raise`.

pub mod boot_guard;
pub mod disposition;
pub mod observer;
pub mod relay_link;
mod self_pipe;

pub use nix::sys::signal::Signal;
