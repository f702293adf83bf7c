//! Windows to segments.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use onward_segment::{EncodedBatch, Region, SegmentError, Writer};

use super::window::{Chunk, Window};
use crate::error::segment_error;

/// The messages of a window, still in memory.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub messages: Vec<(u32, EncodedBatch)>,
}

impl Encoded {
    /// Gathers and encodes the window's rows: any type.
    pub fn new(window: &Window, schema: &SchemaRef, batch_rows: usize) -> Result<Self> {
        let mut encoded = Self::default();
        for chunk in window.chunks(batch_rows) {
            let batch = gather(window, &chunk, schema)?;
            encoded.messages.push((chunk.partition, EncodedBatch::new(&batch).map_err(segment_error)?));
        }
        Ok(encoded)
    }

    /// Bytes of the messages from `from` on.
    pub fn bytes(&self, from: usize) -> usize {
        self.messages[from..].iter().map(|(_, message)| message.encoded_bytes()).sum()
    }

    /// First and last partition of the messages from `from` on; there is one.
    pub fn partitions(&self, from: usize) -> (u32, u32) {
        (self.messages[from].0, self.messages[self.messages.len() - 1].0)
    }

    /// Writes messages from `from` on, as many as fit. Gives the first that was not written.
    pub fn write<R: Region>(&self, from: usize, writer: &mut Writer<R>) -> Result<usize> {
        for (at, (partition, message)) in self.messages.iter().enumerate().skip(from) {
            match writer.append_encoded(*partition, message) {
                Ok(()) => {}
                Err(SegmentError::Full { .. }) if at > from => return Ok(at),
                Err(error) => return Err(segment_error(error)),
            }
        }
        Ok(self.messages.len())
    }
}

/// The rows of `chunk` as one batch.
pub(super) fn gather(window: &Window, chunk: &Chunk, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = RecordBatchOptions::new().with_row_count(Some(chunk.rows));
    if let [piece] = chunk.pieces.as_slice()
        && window.assignments[piece.batch as usize].order.is_empty()
    {
        let part = window.batches[piece.batch as usize].slice(piece.start as usize, chunk.rows);
        return Ok(RecordBatch::try_new_with_options(schema.clone(), part.columns().to_vec(), &rows)?);
    }
    let indices = chunk_indices(window, chunk);
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for column in 0..schema.fields().len() {
        let sources: Vec<&dyn datafusion::arrow::array::Array> =
            chunk.pieces.iter().map(|piece| window.batches[piece.batch as usize].column(column).as_ref()).collect();
        columns.push(interleave(&sources, &indices)?);
    }
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

/// Source (position in the chunk's pieces) and row of each row of `chunk`, as Arrow's `interleave` takes them: sources are
/// numbered by piece, so that it looks at no batch that gives no row.
pub(super) fn chunk_indices(window: &Window, chunk: &Chunk) -> Vec<(usize, usize)> {
    let mut indices = Vec::with_capacity(chunk.rows);
    for (source, piece) in chunk.pieces.iter().enumerate() {
        let order = &window.assignments[piece.batch as usize].order;
        match order.is_empty() {
            true => indices.extend((piece.start..piece.end).map(|row| (source, row as usize))),
            false => {
                let places = &order[piece.start as usize..piece.end as usize];
                indices.extend(places.iter().map(|row| (source, *row as usize)));
            }
        }
    }
    indices
}
