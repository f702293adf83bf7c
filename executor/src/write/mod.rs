//! Writes: rows to files that nobody sees until the coordinator commits them.
//!
//! ```text
//!   coordinator                function (one per task)                         coordinator, after the query committed
//!   WriteNode -- plan -->  WriteExec: rows -> format -> StagingStore
//!                              local:  <dir>/.onward-<id>/<attempt>-<n>    ->   rename to the final name
//!                              remote: parts of a multipart upload         ->   complete_multipart
//!                          WriteExec's rows = the manifest of what was staged
//! ```
//!
//! Guarantees: staged names carry the attempt, so two attempts of a task never touch one file; a final name never depends
//! on the attempt; what a cancelled or lost attempt staged is in no manifest and goes away with the staging directory.

mod codec;
mod exec;
mod manifest;
mod node;
mod planner;
mod sink;
mod staging;
mod target;

pub use codec::WriteCodec;
pub use exec::WriteExec;
pub use manifest::{StagedFile, StagedPlace, manifest_schema, read_manifest};
pub use node::WriteNode;
pub use planner::WritePlanner;
pub use target::WriteTarget;
