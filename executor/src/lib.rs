//! The host and its function processes.

pub mod function;
pub mod host;
pub mod socket;

#[cfg(test)]
mod tests;

pub use host::{Host, HostError, HostEvent, HostOptions};

/// The environment variable that carries a function's one-time token. Arguments are readable by every user of the
/// machine, the environment of a process is not.
pub const TOKEN_VARIABLE: &str = "ONWARD_FUNCTION_TOKEN";
