//! Flight SQL as clients see it: a server of this process with a real coordinator, its functions being the real binary,
//! and arrow-flight's own clients. Python clients are in `python`.

mod access;
mod catalog;
mod ending;
mod prepared;
mod progress;
pub mod python;
pub mod server;
mod sessions;
mod statements;
