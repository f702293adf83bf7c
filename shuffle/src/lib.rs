//! The direct shuffle service: from the rows of one stage to the rows of the next, through mapped segments.
//!
//! ```text
//!   plan partition -> Lane ---+                                  +---> ShuffleReaderExec partition
//!   plan partition -> Lane ---+-> AttemptWriter -> segments -----+---> ShuffleReaderExec partition
//!                                      |                         |
//!                                      +--> inline image --------+  (small output, inside the completion message)
//! ```
//!
//! The one reading rule: exchange partition `p` of a stage is, for its committed attempts in task order, the entries of
//! `p` in each of the attempt's segments, in order. Partition numbers are global: nothing is renumbered per task.
//!
//! Writers and readers open no file and no socket: segments come from a [`SegmentSink`] and a [`SegmentSource`], which a
//! function implements over its socket to the host, and tests over a store in the same process. [`flight`] is how hosts bring
//! each other's segments to their functions.

mod error;
pub mod flight;
mod local;
mod reader;
mod sketch;
mod transport;
mod writer;

#[cfg(test)]
mod tests;

pub use local::LocalStore;
pub use reader::{InputFeed, ShuffleReaderExec};
pub use sketch::{filter_expr, merge_sketches};
pub use transport::{Fetch, SegmentSink, SegmentSource, WritableSegment};
pub use writer::{AttemptWriter, Lane, OutputMapping, WriterOptions};
