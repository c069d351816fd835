//! The rules: pure functions over plain values, each with a table of tests. No clock, no file, no process.

pub mod companions;
pub mod diagnosis;
pub mod duration;
pub mod forwarding;
pub mod goal;
pub mod hook_time;
pub mod http;
pub mod pattern;
pub mod probe;
pub mod program;
pub mod recipients;
pub mod relay_message;
pub mod ruby_script;
pub mod sd_notify;
pub mod shell_traps;
pub mod signal_map;
pub mod signal_path;
pub mod stall;
pub mod state;
pub mod stop_timeout;
pub mod text;
pub mod trace_denied;
pub mod variables;
pub mod wrappers;
