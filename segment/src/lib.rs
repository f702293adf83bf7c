//! Onward: immutable Arrow IPC segments in shared memory.
//!
//! What it is: the bytes between two stages. A *segment* is one file of Arrow IPC messages and an index by partition; a
//! *store* owns the files of one host. What it is not: it has no async, no network and no idea of queries.
//!
//! ```text
//!   SegmentStore (host)                 function that writes              function that reads
//!   create(writer) ---- descriptor ---> SegmentWriter: map, append,
//!                                       finish -> length, rows
//!   commit(length, rows) <------------- (unmapped)
//!   lease(id, reader) ------------------------------- descriptor -------> MappedSegment: map, verify,
//!   release(id, reader) <--------------- release hook ------------------- batches(partition), no copy
//! ```
//!
//! Guarantees:
//! - A batch decoded from a segment points into the mapping: no byte is copied. Each of its buffers is an allocation of
//!   exact length, so memory accounting sees the batch and not the file.
//! - A segment is read whole or not at all: torn, truncated, foreign and older files give a typed error.
//! - A file is used again only when its segment is removed and every process that had it was heard or reaped.
//! - Nothing outlives the process but files of a crashed one, which the next start removes.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{Int64Array, RecordBatch};
//! use onward_segment::{SegmentStore, SegmentWriter, StoreOptions};
//! use onward_wire::{FunctionId, message::SegmentRef};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! let store = SegmentStore::open(StoreOptions::below(dir.path(), 1 << 20, 1 << 20))?;
//! let batch = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as _)])?;
//!
//! let file = store.create(FunctionId(1), 64 << 10)?;
//! let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch.schema())?;
//! writer.append(7, &batch)?;
//! let written = writer.finish()?;
//! store.commit(&SegmentRef { segment: file.id.0, length_bytes: written.length_bytes, rows: written.rows })?;
//!
//! let mapped = store.map(file.id)?;
//! assert_eq!(mapped.batches(7).next().unwrap()?, batch);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod copy;
mod decode;
mod encode;
mod error;
mod format;
mod mapped;
mod mapping;
mod message;
mod scratch;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use arrow_ipc::FieldNode;
pub use copy::{CopyPlan, SegmentCopy};
pub use encode::{EncodedBatch, Layout};
pub use error::{Result, SegmentError};
pub use format::{ALIGNMENT, Entry, align};
pub use mapped::{IMAGE_ID, MappedSegment, ReleaseHook};
pub use message::{MessageHead, MessageShape};
pub use scratch::ScratchDir;
pub use store::{FETCHER, SegmentStore, StoreOptions, StoreUsage, WritableFile, free_bytes};
pub use writer::{FileRegion, Finished, ImageWriter, Region, SegmentWriter, Writer, segment_bytes};
