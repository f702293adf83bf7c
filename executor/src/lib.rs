//! The host, its function processes, and how they talk.
//!
//! ```text
//!   coordinator                                  machine
//!   ----------- commands --> Host ---- launches ----> function process ---- runs attempts with DataFusion
//!   <----------- events ---   | owns
//!                             | asks a zygote, which forks   | has one socket, and listens on nothing
//!                        SegmentStore <-- descriptors --> maps segments in place
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`host`] | one per machine: the segment store, the functions and their files; embedded in the coordinator here |
//! | [`function`] | `main` of a function process: decode, slice, bind, run, write, report |
//! | [`zygote`] | the process that function processes are forked from |
//! | `sandbox` | what a function process may do |
//! | [`write`](mod@write) | the plan node that writes files for COPY, INSERT and CREATE TABLE AS |
//! | [`socket`] | frames with descriptors between the two |
//!
//! What it is not: it decides nothing. Which attempt runs where, what is tried again and what is committed is the
//! coordinator's business; the host carries it out and says what came of it.
//!
//! Guarantees: a function process ends with its host; what it held is used again only after it was reaped; an attempt's
//! output is announced only when every byte of its index was verified.

pub mod function;
pub mod host;
mod sandbox;
pub mod socket;
pub mod write;
pub mod zygote;

#[cfg(test)]
mod tests;

pub use host::{Host, HostError, HostEvent, HostOptions};
pub use socket::SocketError;
