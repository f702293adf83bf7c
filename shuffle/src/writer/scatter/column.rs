//! One column of a window: what its messages need, and how they are filled.

use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result;
use onward_segment::{FieldNode, Layout, MessageShape};

use super::{Chunk, Placed, Places, Rows, Window, bits, bytes, fixed};
use crate::error::segment_error;
use crate::writer::encode::chunk_indices;
use crate::writer::measure::Text;

/// Arrow's 32-bit offsets and views address this many bytes.
const MOST_BUFFER_BYTES: usize = i32::MAX as usize;

/// A column's messages, counted.
#[derive(Debug)]
pub(super) struct ColumnPlan {
    kind: Kind,
    /// Per message; empty when no row is null.
    null_counts: Vec<usize>,
    /// Per message: bytes of the data buffer. Empty for columns without one.
    data_bytes: Vec<usize>,
    /// Per message, for [`Kind::Gathered`].
    layouts: Vec<Layout>,
    column: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Bytes of a value.
    Fixed(usize),
    Boolean,
    /// Utf8, Binary: 32-bit offsets.
    Bytes,
    /// LargeUtf8, LargeBinary: 64-bit offsets.
    LargeBytes,
    /// Utf8View, BinaryView.
    Views,
    /// Everything else: gathered by Arrow's kernels, then copied.
    Gathered,
}

/// False for types that need messages of their own.
pub(super) fn is_scatterable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..) => false,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => is_scatterable(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_scatterable(field.data_type())),
        DataType::Union(fields, _) => fields.iter().all(|(_, field)| is_scatterable(field.data_type())),
        _ => true,
    }
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Utf8 | DataType::Binary => Self::Bytes,
            DataType::LargeUtf8 | DataType::LargeBinary => Self::LargeBytes,
            DataType::Utf8View | DataType::BinaryView => Self::Views,
            DataType::FixedSizeBinary(width) => Self::Fixed(*width as usize),
            other => other.primitive_width().map_or(Self::Gathered, Self::Fixed),
        }
    }
}

impl ColumnPlan {
    /// Counts what column `column` needs in each message. `None` when a message would need more than a buffer holds.
    pub fn count(
        window: &Window,
        chunks: &[Chunk],
        placed: &[Vec<Placed>],
        column: usize,
        data_type: &DataType,
    ) -> Result<Option<Self>> {
        let kind = Kind::of(data_type);
        let mut plan = Self { kind, null_counts: Vec::new(), data_bytes: Vec::new(), layouts: Vec::new(), column };
        if kind == Kind::Gathered {
            for chunk in chunks {
                let sources: Vec<&dyn Array> =
                    chunk.pieces.iter().map(|piece| plan.array(window, piece.batch as usize).as_ref()).collect();
                let gathered = interleave(&sources, &chunk_indices(window, chunk))?;
                match Layout::of(&gathered).map_err(segment_error)? {
                    Some(layout) => plan.layouts.push(layout),
                    None => return Ok(None),
                }
            }
            return Ok(Some(plan));
        }
        if window.batches.iter().any(|batch| batch.column(column).null_count() > 0) {
            plan.null_counts = vec![0; chunks.len()];
        }
        if matches!(kind, Kind::Bytes | Kind::LargeBytes | Kind::Views) {
            plan.data_bytes = vec![0; chunks.len()];
        }
        if plan.null_counts.is_empty() && plan.data_bytes.is_empty() {
            return Ok(Some(plan));
        }
        for (batch, pieces) in placed.iter().enumerate() {
            let (array, order) = (plan.array(window, batch), &window.assignments[batch].order);
            let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
            let text = Text::of(array.as_ref());
            let group_bytes = &window.measured[batch].text_bytes[column];
            for piece in pieces {
                let rows = Rows::new(order, piece.start, piece.end);
                if let Some(nulls) = nulls {
                    plan.null_counts[piece.chunk] += bits::count_unset(nulls.inner(), rows);
                }
                let group = window.assignments[batch].groups[piece.group];
                let Some(text) = text else { continue };
                plan.data_bytes[piece.chunk] += match (group.end - group.start) as usize == rows.len() {
                    true => group_bytes[piece.group],
                    false => bytes::count(text, rows),
                };
            }
        }
        let is_too_large = kind != Kind::LargeBytes && plan.data_bytes.iter().any(|bytes| *bytes > MOST_BUFFER_BYTES);
        Ok((!is_too_large).then_some(plan))
    }

    fn array<'a>(&self, window: &'a Window, batch: usize) -> &'a ArrayRef {
        window.batches[batch].column(self.column)
    }

    fn null_count(&self, chunk: usize) -> usize {
        self.null_counts.get(chunk).copied().unwrap_or_default()
    }

    /// Appends what message `chunk` says about the column.
    pub fn describe(&self, chunk: usize, rows: usize, shape: &mut MessageShape) {
        if let Some(layout) = self.layouts.get(chunk) {
            return layout.describe(shape);
        }
        let null_count = self.null_count(chunk);
        shape.nodes.push(FieldNode::new(rows as i64, null_count as i64));
        shape.buffers.push(if null_count > 0 { rows.div_ceil(8) } else { 0 });
        match self.kind {
            Kind::Fixed(width) => shape.buffers.push(rows * width),
            Kind::Boolean => shape.buffers.push(rows.div_ceil(8)),
            Kind::Bytes => shape.buffers.extend([(rows + 1) * 4, self.data_bytes[chunk]]),
            Kind::LargeBytes => shape.buffers.extend([(rows + 1) * 8, self.data_bytes[chunk]]),
            Kind::Views => {
                let buffers = usize::from(self.data_bytes[chunk] > 0);
                shape.buffers.push(rows * 16);
                shape.buffers.extend(std::iter::repeat_n(self.data_bytes[chunk], buffers));
                shape.variadic.push(buffers as i64);
            }
            Kind::Gathered => {}
        }
    }

    /// Writes the column's buffers of messages `chunks` into the segment's `memory`.
    pub fn fill(&self, window: &Window, places: &Places<'_>, chunks: Range<usize>, memory: &mut [u8]) {
        if self.kind == Kind::Gathered {
            for chunk in chunks {
                for (at, buffer) in self.layouts[chunk].buffers().iter().enumerate() {
                    memory[places.buffer(chunk, at)].copy_from_slice(buffer);
                }
            }
            return;
        }
        self.fill_validity(window, places, &chunks, memory);
        match self.kind {
            Kind::Fixed(width) => {
                let sources: Vec<_> =
                    (0..window.batches.len()).map(|at| values(self.array(window, at), width)).collect();
                places.for_each(&chunks, |batch, rows, placed| {
                    let buffer = places.buffer(placed.chunk, 1);
                    let start = buffer.start + placed.row * width;
                    fixed::fill(&mut memory[start..start + rows.len() * width], &sources[batch], width, rows);
                });
            }
            Kind::Boolean => {
                chunks.clone().for_each(|chunk| memory[places.buffer(chunk, 1)].fill(0));
                places.for_each(&chunks, |batch, rows, placed| {
                    let bits = self.array(window, batch).as_boolean().values();
                    bits::fill(&mut memory[places.buffer(placed.chunk, 1)], placed.row, bits, rows);
                });
            }
            Kind::Bytes => self.fill_bytes(4, window, places, &chunks, memory),
            Kind::LargeBytes => self.fill_bytes(8, window, places, &chunks, memory),
            Kind::Views => self.fill_views(window, places, &chunks, memory),
            Kind::Gathered => {}
        }
    }

    fn fill_validity(&self, window: &Window, places: &Places<'_>, chunks: &Range<usize>, memory: &mut [u8]) {
        if !chunks.clone().any(|chunk| self.null_count(chunk) > 0) {
            return;
        }
        for chunk in chunks.clone() {
            memory[places.buffer(chunk, 0)].fill(0);
        }
        places.for_each(chunks, |batch, rows, placed| {
            if self.null_count(placed.chunk) == 0 {
                return;
            }
            let target = &mut memory[places.buffer(placed.chunk, 0)];
            match self.array(window, batch).nulls() {
                Some(nulls) => bits::fill(target, placed.row, nulls.inner(), rows),
                None => bits::set(target, placed.row, rows.len()),
            }
        });
    }

    /// Offsets of `width` bytes, and their text.
    fn fill_bytes(&self, width: usize, window: &Window, places: &Places<'_>, chunks: &Range<usize>, memory: &mut [u8]) {
        for chunk in chunks.clone() {
            let start = places.buffer(chunk, 1).start;
            memory[start..start + width].fill(0);
        }
        let mut filled = vec![0; self.data_bytes.len()];
        places.for_each(chunks, |batch, rows, placed| {
            let (offsets, data) = two_ranges(memory, places.buffer(placed.chunk, 1), places.buffer(placed.chunk, 2));
            let ends = &mut offsets[(placed.row + 1) * width..(placed.row + 1 + rows.len()) * width];
            let filled = &mut filled[placed.chunk];
            match Text::of(self.array(window, batch).as_ref()) {
                Some(Text::Offsets(offsets, values)) => bytes::fill(ends, data, filled, (offsets, values), rows),
                Some(Text::LargeOffsets(offsets, values)) => bytes::fill(ends, data, filled, (offsets, values), rows),
                _ => {}
            }
        });
    }

    /// Views, and the text of the long ones in one buffer per message.
    fn fill_views(&self, window: &Window, places: &Places<'_>, chunks: &Range<usize>, memory: &mut [u8]) {
        let mut filled = vec![0; self.data_bytes.len()];
        places.for_each(chunks, |batch, rows, placed| {
            let Some(Text::Views(source, buffers)) = Text::of(self.array(window, batch).as_ref()) else { return };
            let views = places.buffer(placed.chunk, 1);
            let target = placed.row * 16..(placed.row + rows.len()) * 16;
            if self.data_bytes[placed.chunk] == 0 {
                // All values are inside of their views.
                return fixed::fill(&mut memory[views][target], bytes_of(source), 16, rows);
            }
            let (views, data) = two_ranges(memory, views, places.buffer(placed.chunk, 2));
            bytes::fill_views(&mut views[target], data, &mut filled[placed.chunk], (source, buffers), rows);
        });
    }
}

/// The memory of views.
fn bytes_of(views: &[u128]) -> &[u8] {
    // SAFETY: the same memory, read as bytes.
    unsafe { std::slice::from_raw_parts(views.as_ptr().cast(), size_of_val(views)) }
}

/// The values of a fixed-width array, from its first row.
fn values(array: &ArrayRef, width: usize) -> datafusion::arrow::buffer::Buffer {
    let data = array.to_data();
    data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width)
}

/// Two ranges of `memory`, the first before the second.
fn two_ranges(memory: &mut [u8], first: Range<usize>, second: Range<usize>) -> (&mut [u8], &mut [u8]) {
    let (left, right) = memory.split_at_mut(second.start);
    (&mut left[first], &mut right[..second.len()])
}
