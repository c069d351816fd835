//! Inside a Sidekiq: what the Ruby binding calls.

mod checks;
pub mod clearing;
pub mod http;
pub mod lifecycle;
pub mod own_path;
mod publisher;
pub mod recorder;
mod recording;
pub mod ruby_listener;
pub mod service_manager;
mod signal_thread;
mod writer;
