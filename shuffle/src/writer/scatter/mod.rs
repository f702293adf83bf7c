//! The fast path from windows to segments: rows go straight from their batches into the mapped messages.
//!
//! ```text
//!   batches, by reference      rows grouped by partition       messages in the mapping
//!   +---+---+---+              p0: 3 17 40 ...                  head p0 | col a ....| col b ....
//!   | a | b | c |   --sizes--> p1: 0 5 9 ...     --fill-------> head p1 | col a ....| col b ....
//!   +---+---+---+              p2: ...                          head p2 | ...
//! ```
//!
//! First every message's size is counted, so that heads, places and the file's size are known; then each column is filled
//! batch by batch. A batch's column stays in the cache while its rows go to all partitions, and every row is copied once.

mod bits;
mod bytes;
mod column;
mod fixed;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use onward_segment::{MessageHead, MessageShape, Region, SegmentError, Writer};

use super::window::{Chunk, Window};
use crate::error::segment_error;
use column::ColumnPlan;

/// A window's messages, counted and placed, not yet written.
#[derive(Debug)]
pub(super) struct Scatter<'a> {
    window: &'a Window,
    chunks: Vec<Chunk>,
    columns: Vec<ColumnPlan>,
    heads: Vec<MessageHead>,
    /// Per chunk, per column: the first of its buffers.
    first_buffers: Vec<Vec<usize>>,
    /// Per batch: which of its rows go where.
    placed: Vec<Vec<Placed>>,
}

/// Places `start..end` of a batch's assignment (in group `group`) go to rows `row..` of message `chunk`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub chunk: usize,
    pub group: usize,
    pub start: usize,
    pub end: usize,
    pub row: usize,
}

/// Rows of one batch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows<'a> {
    /// These.
    Listed(&'a [u32]),
    /// From the first to before the second.
    Range(usize, usize),
}

impl<'a> Rows<'a> {
    fn new(order: &'a [u32], start: usize, end: usize) -> Self {
        match order.is_empty() {
            true => Self::Range(start, end),
            false => Self::Listed(&order[start..end]),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Listed(rows) => rows.len(),
            Self::Range(start, end) => end - start,
        }
    }

    /// Calls `visit` with each row. A closure, so that both kinds get a tight loop of their own.
    #[inline(always)]
    fn for_each(self, mut visit: impl FnMut(usize)) {
        match self {
            Self::Listed(rows) => rows.iter().for_each(|row| visit(*row as usize)),
            Self::Range(start, end) => (start..end).for_each(visit),
        }
    }
}

impl<'a> Scatter<'a> {
    /// Counts and places the window's rows. `None` when a column needs the general path (dictionaries, more than 2 GiB of
    /// text in one message).
    pub fn plan(window: &'a Window, schema: &SchemaRef, batch_rows: usize) -> Result<Option<Self>> {
        if !schema.fields().iter().all(|field| column::is_scatterable(field.data_type())) {
            return Ok(None);
        }
        let chunks = window.chunks(batch_rows);
        let mut placed: Vec<Vec<Placed>> = vec![Vec::new(); window.batches.len()];
        for (at, chunk) in chunks.iter().enumerate() {
            let mut row = 0;
            for piece in &chunk.pieces {
                let (start, end) = (piece.start as usize, piece.end as usize);
                placed[piece.batch as usize].push(Placed { chunk: at, group: piece.group as usize, start, end, row });
                row += end - start;
            }
        }
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (at, field) in schema.fields().iter().enumerate() {
            match ColumnPlan::count(window, &chunks, &placed, at, field.data_type())? {
                Some(column) => columns.push(column),
                None => return Ok(None),
            }
        }
        let mut fbb = Default::default();
        let mut heads = Vec::with_capacity(chunks.len());
        let mut first_buffers = Vec::with_capacity(chunks.len());
        for (at, chunk) in chunks.iter().enumerate() {
            let mut shape = MessageShape { rows: chunk.rows, ..MessageShape::default() };
            let mut first = Vec::with_capacity(columns.len());
            for column in &columns {
                first.push(shape.buffers.len());
                column.describe(at, chunk.rows, &mut shape);
            }
            heads.push(MessageHead::batch(&mut fbb, &shape));
            first_buffers.push(first);
        }
        Ok(Some(Self { window, chunks, columns, heads, first_buffers, placed }))
    }

    /// Messages.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of the messages from `from` on.
    pub fn bytes(&self, from: usize) -> usize {
        self.heads[from..].iter().map(MessageHead::encoded_bytes).sum()
    }

    /// First and last partition of the messages from `from` on; there is one.
    pub fn partitions(&self, from: usize) -> (u32, u32) {
        (self.chunks[from].partition, self.chunks[self.chunks.len() - 1].partition)
    }

    /// Writes messages from `from` on, as many as fit. Gives the first that was not written.
    pub fn write<R: Region>(&self, from: usize, writer: &mut Writer<R>) -> Result<usize> {
        let mut bodies = vec![0; self.chunks.len()];
        let mut end = from;
        while end < self.chunks.len() {
            match writer.reserve(self.chunks[end].partition, &self.heads[end]) {
                Ok(body) => bodies[end] = body,
                Err(SegmentError::Full { .. }) if end > from => break,
                Err(error) => return Err(segment_error(error)),
            }
            end += 1;
        }
        let memory = writer.bytes_mut();
        for (at, column) in self.columns.iter().enumerate() {
            let places = Places { scatter: self, bodies: &bodies, column: at };
            column.fill(self.window, &places, from..end, memory);
        }
        Ok(end)
    }
}

/// Where the buffers of one column lie in the segment.
struct Places<'a> {
    scatter: &'a Scatter<'a>,
    bodies: &'a [usize],
    column: usize,
}

impl Places<'_> {
    /// Segment-relative place of buffer `buffer` of the column in message `chunk`.
    fn buffer(&self, chunk: usize, buffer: usize) -> std::ops::Range<usize> {
        let first = self.scatter.first_buffers[chunk][self.column];
        let place = &self.scatter.heads[chunk].buffers()[first + buffer];
        self.bodies[chunk] + place.start..self.bodies[chunk] + place.end
    }

    /// Calls `visit` with the batch, its rows and their place, for every piece of messages `chunks`, batch by batch.
    #[inline(always)]
    fn for_each(&self, chunks: &std::ops::Range<usize>, mut visit: impl FnMut(usize, Rows<'_>, &Placed)) {
        let window = self.scatter.window;
        for (batch, pieces) in self.scatter.placed.iter().enumerate() {
            let order = &window.assignments[batch].order;
            for piece in pieces.iter().filter(|piece| chunks.contains(&piece.chunk)) {
                visit(batch, Rows::new(order, piece.start, piece.end), piece);
            }
        }
    }
}
