//! [`CachedColumn`]: a column of a row group as a scan reads it.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, UInt8Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::UInt8Type;
use datafusion::arrow::error::ArrowError;
use onward_segment::{MappedSegment, SegmentError};
use onward_wire::SegmentId;

use super::layout::{Stored, Zones, read};

/// The batches of one column of one row group. In shared memory when it is cached, else (no room) on the heap; shared by
/// all scans of a process.
#[derive(Debug)]
pub struct CachedColumn {
    stored: Stored,
    /// Values of the dictionary that all batches share.
    values: Option<ArrayRef>,
    segment: Option<SegmentId>,
    bytes: u64,
}

impl CachedColumn {
    /// The column of a segment, in place.
    ///
    /// # Errors
    /// When the segment holds something else.
    pub fn map(segment: &Arc<MappedSegment>) -> Result<Self, SegmentError> {
        let stored = read(segment)?;
        Ok(Self { segment: Some(segment.id()), bytes: segment.length_bytes(), ..Self::on_heap(stored) })
    }

    /// A decoded column that is not cached.
    pub fn on_heap(stored: Stored) -> Self {
        let first = stored.arrays.first().filter(|_| stored.is_keyed);
        let values = first.map(|array| Arc::clone(array.as_dictionary::<UInt8Type>().values()));
        let bytes = stored.arrays.iter().map(|array| array.get_array_memory_size() as u64).sum();
        Self { stored, values, segment: None, bytes }
    }

    /// Its segment, when it is cached.
    pub fn segment(&self) -> Option<SegmentId> {
        self.segment
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of batches.
    pub fn batch_count(&self) -> usize {
        self.stored.arrays.len()
    }

    /// Least and greatest values by batch.
    pub fn zones(&self) -> Option<&Zones> {
        self.stored.zones.as_ref()
    }

    /// The values of its dictionary, when it has one.
    pub fn values(&self) -> Option<&ArrayRef> {
        self.values.as_ref()
    }

    /// Keys of a batch of a column with a dictionary.
    pub fn keys(&self, batch: usize) -> Option<&UInt8Array> {
        self.values.as_ref()?;
        Some(self.stored.arrays[batch].as_dictionary::<UInt8Type>().keys())
    }

    /// A batch as it is kept: of the column's type, keys of its dictionary, or offsets.
    pub fn compact(&self, batch: usize) -> ArrayRef {
        match self.keys(batch) {
            Some(keys) => Arc::new(keys.clone()),
            None => Arc::clone(&self.stored.arrays[batch]),
        }
    }

    /// What [`Self::compact`] gave, or rows of it, as values of the column's type.
    ///
    /// # Errors
    /// None for what came from this column.
    pub fn expand(&self, compact: ArrayRef) -> Result<ArrayRef, ArrowError> {
        match &self.values {
            Some(values) => take(values, compact.as_ref(), None),
            None => match &self.stored.narrow {
                Some(narrow) => narrow
                    .expand(&compact)
                    .ok_or_else(|| ArrowError::InvalidArgumentError(format!("{} are no offsets", compact.data_type()))),
                None => Ok(compact),
            },
        }
    }
}
