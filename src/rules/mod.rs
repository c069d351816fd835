//! The ground floor: pure rules over plain values, each with a table of tests.

pub mod company;
pub mod diagnosis;
pub mod forwarding;
pub mod hooks;
pub mod notice;
pub mod path;
pub mod probe;
pub mod program;
pub mod recipients;
pub mod refusal;
pub mod rewrite;
pub mod script;
pub mod silence;
pub mod state;
pub mod text;
pub mod time;
pub mod traps;
pub mod waiting;
pub mod wrappers;
