//! Ids, settings, errors and messages that travel between Onward's roles.
//!
//! What it is: the vocabulary every other crate shares. It depends on nothing of ours and does no I/O.
//!
//! | module | holds |
//! | --- | --- |
//! | [`id`] | newtypes that print: `q-7f3a`, `q-7f3a/s2/t5#1` (query / stage / task # attempt) |
//! | [`config`] | every setting and limit, declared once |
//! | [`cluster`] | what a coordinator and its hosts say to each other |
//! | [`columns`] | what they say about the column cache |
//! | [`error`] | [`error::ErrorKind`] and [`error::WireError`]: errors keep their type through every wrapper |
//! | [`exchange`] | what a task reads of other stages; what is asked of a host's store over the network, and what lets one ask |
//! | [`packed`] | the same, as it travels to hosts |
//! | [`files`] | what a function's host opens and uploads for it |
//! | [`ranges`] | what they say about bytes of remote objects |
//! | [`message`] | what a host and a function say to each other over their Unix socket |
//!
//! Guarantee: a function of another engine version is refused in the handshake ([`ENGINE_VERSION`]), and a host of another one is
//! given no work, so fields may change freely between versions; but not those of `Join`, `Follow`, `Leader`, `Deposed`, `Leaving` and
//! heartbeats, which hosts and coordinators of two versions say to each other.

#[macro_use]
mod envelope;

pub mod cluster;
pub mod columns;
pub mod config;
pub mod error;
pub mod exchange;
pub mod files;
pub mod filters;
pub mod id;
pub mod message;
pub mod packed;
pub mod panics;
pub mod ranges;

pub use config::Config;
pub use error::{ErrorKind, WireError};
pub use id::{AttemptId, FunctionId, HostId, QueryId, SegmentId, StageId, TaskId};

/// The version every role of one cluster must share; the handshake refuses another.
pub const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");
