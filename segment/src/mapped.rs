//! [`MappedSegment`]: a verified segment, read in place.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use onward_wire::SegmentId;

use crate::decode::decode_entry;
use crate::error::{Result, SegmentError};
use crate::format::{Entry, Index};
use crate::mapping::{Mapping, Memory};
use crate::message::read_schema;

/// The id inside of images, which are in no store.
pub const IMAGE_ID: SegmentId = SegmentId(0);

/// Runs when the last reference to a segment is gone.
pub type ReleaseHook = Box<dyn FnOnce() + Send>;

/// A segment, verified, mapped read-only and immutable. Arrays decoded from it own it: the mapping lives as long as the
/// last buffer, then the release hook runs.
///
/// Opening checks length, ids, footer and the checksum of the index. It does not check message bodies: those were
/// written by a process that ran our binary and whose segment its host verified, so arrays are built without validation.
pub struct MappedSegment {
    id: SegmentId,
    memory: Option<Memory>,
    index: Index,
    schema: OnceLock<SchemaRef>,
    // A std mutex: Arrow's `Allocation` needs owners that are `RefUnwindSafe`.
    hook: Mutex<Option<ReleaseHook>>,
}

impl MappedSegment {
    /// Maps segment `id`, whose first `length_bytes` of `file` it is. The descriptor is not kept.
    pub fn open(id: SegmentId, file: impl AsFd, length_bytes: u64) -> Result<Self> {
        Self::open_with(id, file, length_bytes, None)
    }

    /// [`MappedSegment::open`], with a hook for when the mapping is gone. On error the hook is dropped, not run.
    pub fn open_with(id: SegmentId, file: impl AsFd, length_bytes: u64, hook: Option<ReleaseHook>) -> Result<Self> {
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let mapping = Mapping::read_only(file, length).map_err(|error| match error {
            SegmentError::Torn { detail, .. } => SegmentError::Torn { id, detail },
            other => other,
        })?;
        Self::new(id, Memory::Mapped(mapping), hook)
    }

    /// Reads an image (a whole segment in memory, see [`crate::ImageWriter`]). Copies it when it is not aligned.
    pub fn from_image(image: Bytes) -> Result<Self> {
        Self::new(IMAGE_ID, Memory::from_image(image), None)
    }

    fn new(id: SegmentId, memory: Memory, hook: Option<ReleaseHook>) -> Result<Self> {
        let index = Index::verify(id, memory.bytes())?;
        Ok(Self { id, memory: Some(memory), index, schema: OnceLock::new(), hook: Mutex::new(hook) })
    }

    /// Its id; [`IMAGE_ID`] for images.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Rows of all partitions.
    pub fn rows(&self) -> u64 {
        self.index.rows
    }

    /// Bytes of the whole segment.
    pub fn length_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Schema of its batches.
    pub fn schema(&self) -> Result<SchemaRef> {
        if let Some(schema) = self.schema.get() {
            return Ok(schema.clone());
        }
        let schema = read_schema(self.id, self.schema_message())?;
        Ok(self.schema.get_or_init(|| schema).clone())
    }

    /// Entries of `partition`, in write order. Empty when the segment has none.
    pub fn entries(&self, partition: u32) -> impl ExactSizeIterator<Item = Entry> + use<'_> {
        self.index.range(self.bytes(), partition).map(|position| self.index.entry(self.bytes(), position))
    }

    /// All entries, sorted by partition.
    pub fn all_entries(&self) -> impl ExactSizeIterator<Item = Entry> + use<'_> {
        (0..self.index.entry_count).map(|position| self.index.entry(self.bytes(), position))
    }

    /// Decodes one entry without copying: its buffers point into the mapping.
    pub fn batch(self: &Arc<Self>, entry: &Entry) -> Result<RecordBatch> {
        let range = entry.offset as usize..(entry.offset + entry.length) as usize;
        decode_entry(self, &self.schema()?, range)
    }

    /// Decodes the batches of `partition` one by one, in write order.
    pub fn batches(self: &Arc<Self>, partition: u32) -> impl Iterator<Item = Result<RecordBatch>> + use<> {
        let segment = self.clone();
        let range = segment.index.range(segment.bytes(), partition);
        range.map(move |position| segment.batch(&segment.index.entry(segment.bytes(), position)))
    }

    /// The encapsulated IPC schema message.
    pub fn schema_message(&self) -> &[u8] {
        &self.bytes()[self.index.schema.clone()]
    }

    /// The encapsulated IPC messages of `entry`: what another machine is sent.
    pub fn messages(&self, entry: &Entry) -> &[u8] {
        &self.bytes()[entry.offset as usize..(entry.offset + entry.length) as usize]
    }

    /// `range` of the segment, such as the messages of neighbouring entries, without copying: the bytes keep it mapped.
    ///
    /// # Panics
    /// When the range does not lie in the segment.
    pub fn slice(self: &Arc<Self>, range: std::ops::Range<u64>) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(self))).slice(range.start as usize..range.end as usize)
    }

    /// The whole segment.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], Memory::bytes)
    }
}

struct Shared(Arc<MappedSegment>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for MappedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedSegment")
            .field("id", &self.id)
            .field("bytes", &self.bytes().len())
            .field("rows", &self.index.rows)
            .finish()
    }
}

impl Drop for MappedSegment {
    fn drop(&mut self) {
        // Unmap first: the hook tells the host that nothing here sees the file any more.
        self.memory = None;
        let hook = self.hook.get_mut().map_or(None, Option::take);
        if let Some(hook) = hook {
            hook();
        }
    }
}
