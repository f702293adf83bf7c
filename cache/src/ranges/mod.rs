//! The range tier: bytes of remote objects on the host's local disk, where they outlive functions and the host.
//!
//! ```text
//!   scan --> MeteredStore --> RangeClient --socket--> RangeTier --+--> blocks in memory and on disk (foyer)
//!   (footers, column chunks,                                      |
//!    text files)                                                  +--> runs of missing blocks: one GET each,
//!                                                                      shared by all who wait for it
//! ```
//!
//! An object is cut into blocks of [`BLOCK_BYTES`]. A block's key holds the object's version, so an overwritten object has
//! other blocks; a GET says which version it expects. Local files are not kept: the kernel does that.
//!
//! Guarantees:
//! - What is answered is of the version asked for, or the error is a stale one.
//! - Everybody who needs a block that is being read waits for that read; a reader that is gone ends nobody else's.
//! - Memory, disk, GETs at a time and blocks read ahead are bounded.
//! - A full or broken disk costs reads, never an error.

mod blocks;
mod client;
mod direct;
mod place;
mod tier;

#[cfg(test)]
mod tests;

pub use client::{RangeClient, RangesRead};
pub use direct::read_direct;
pub use tier::{ObjectUse, RangeOptions, RangeTier};

/// Bytes of a block; an object's last one may be shorter.
pub const BLOCK_BYTES: u64 = 256 << 10;
