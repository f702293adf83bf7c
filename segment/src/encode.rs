//! Arrays to IPC buffers, without copying what is compact already.
//!
//! Slices are cut to their rows, sparse view arrays and dictionaries are compacted, so that a segment holds what the
//! rows need and nothing of the batches they came from.

use std::sync::Arc;

use arrow::array::{
    AnyDictionaryArray, Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, BooleanBufferBuilder,
    GenericListViewArray, OffsetSizeTrait, RecordBatch, RunArray, StringViewArray, UInt64Array, UnionArray,
};
use arrow::compute::{cast, filter, take};
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow_ipc::FieldNode;
use flatbuffers::FlatBufferBuilder;

use crate::error::Result;
use crate::message::{MessageHead, MessageShape};

/// A message whose body is still in its source buffers.
#[derive(Debug)]
pub(crate) struct EncodedMessage {
    pub head: MessageHead,
    pub buffers: Vec<Buffer>,
}

/// A batch as messages: dictionaries first.
#[derive(Debug)]
pub struct EncodedBatch {
    pub(crate) messages: Vec<EncodedMessage>,
}

impl EncodedBatch {
    /// Encodes `batch`; the bytes stay where they are.
    pub fn new(batch: &RecordBatch) -> Result<Self> {
        Self::with(Encoder::default(), batch)
    }

    /// Encodes `batch` with dictionaries as they are, values that no row has included: batches that have one dictionary
    /// have the same one in the segment.
    pub fn with_whole_dictionaries(batch: &RecordBatch) -> Result<Self> {
        Self::with(Encoder { keeps_dictionaries: true, ..Encoder::default() }, batch)
    }

    fn with(mut encoder: Encoder, batch: &RecordBatch) -> Result<Self> {
        let mut layout = Layout::default();
        for column in batch.columns() {
            encoder.push(&mut layout, column)?;
        }
        let head = layout.head(&mut encoder.fbb, batch.num_rows(), None);
        encoder.dictionaries.push(EncodedMessage { head, buffers: layout.buffers });
        Ok(Self { messages: encoder.dictionaries })
    }

    /// Bytes in the segment.
    pub fn encoded_bytes(&self) -> usize {
        self.messages.iter().map(|message| message.head.encoded_bytes()).sum()
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.messages.last().map_or(0, |message| message.head.rows)
    }
}

/// One array as IPC sees it: for writers that lay out the other columns of a batch themselves.
#[derive(Debug, Default)]
pub struct Layout {
    nodes: Vec<FieldNode>,
    buffers: Vec<Buffer>,
    variadic: Vec<i64>,
}

impl Layout {
    /// The layout of `array`, or `None` where it needs dictionary batches.
    pub fn of(array: &ArrayRef) -> Result<Option<Self>> {
        let (mut encoder, mut layout) = (Encoder::default(), Self::default());
        encoder.push(&mut layout, array)?;
        Ok(encoder.dictionaries.is_empty().then_some(layout))
    }

    /// Its buffers, in IPC order.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Appends what the message says about this array.
    pub fn describe(&self, shape: &mut MessageShape) {
        shape.nodes.extend_from_slice(&self.nodes);
        shape.buffers.extend(self.buffers.iter().map(Buffer::len));
        shape.variadic.extend_from_slice(&self.variadic);
    }

    fn head(&self, fbb: &mut FlatBufferBuilder<'static>, rows: usize, dictionary: Option<i64>) -> MessageHead {
        let mut shape = MessageShape { rows, ..MessageShape::default() };
        self.describe(&mut shape);
        match dictionary {
            None => MessageHead::batch(fbb, &shape),
            Some(id) => MessageHead::dictionary(fbb, &shape, id),
        }
    }
}

#[derive(Default)]
struct Encoder {
    fbb: FlatBufferBuilder<'static>,
    dictionaries: Vec<EncodedMessage>,
    next_dictionary: i64,
    /// Values that no row has stay.
    keeps_dictionaries: bool,
}

impl Encoder {
    fn push(&mut self, out: &mut Layout, array: &ArrayRef) -> Result<()> {
        let array = array.as_ref();
        let rows = array.len();
        match array.data_type() {
            DataType::Null => out.nodes.push(FieldNode::new(rows as i64, rows as i64)),
            DataType::Union(..) | DataType::RunEndEncoded(..) => out.nodes.push(FieldNode::new(rows as i64, 0)),
            _ => push_validity(out, rows, array.nulls()),
        }
        match array.data_type() {
            DataType::Null => {}
            DataType::Boolean => out.buffers.push(packed(array.as_boolean().values())),
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                push_bytes(out, array.value_offsets(), array.values());
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                push_bytes(out, array.value_offsets(), array.values());
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                push_bytes(out, array.value_offsets(), array.values());
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                push_bytes(out, array.value_offsets(), array.values());
            }
            DataType::Utf8View => {
                let array: &StringViewArray = array.as_string_view();
                match is_sparse(array.data_buffers(), array.total_buffer_bytes_used()) {
                    true => push_views(out, array.gc().views(), array.gc().data_buffers()),
                    false => push_views(out, array.views(), array.data_buffers()),
                }
            }
            DataType::BinaryView => {
                let array: &BinaryViewArray = array.as_binary_view();
                match is_sparse(array.data_buffers(), array.total_buffer_bytes_used()) {
                    true => push_views(out, array.gc().views(), array.gc().data_buffers()),
                    false => push_views(out, array.views(), array.data_buffers()),
                }
            }
            DataType::List(_) => {
                let array = array.as_list::<i32>();
                self.push_list(out, array.value_offsets(), array.values())?;
            }
            DataType::LargeList(_) => {
                let array = array.as_list::<i64>();
                self.push_list(out, array.value_offsets(), array.values())?;
            }
            DataType::Map(..) => {
                let array = array.as_map();
                let entries: ArrayRef = std::sync::Arc::new(array.entries().clone());
                self.push_list(out, array.value_offsets(), &entries)?;
            }
            DataType::ListView(_) => self.push_list_view(out, array.as_list_view::<i32>())?,
            DataType::LargeListView(_) => self.push_list_view(out, array.as_list_view::<i64>())?,
            DataType::FixedSizeList(_, size) => {
                let values = array.as_fixed_size_list().values();
                self.push(out, &values.slice(0, rows * *size as usize))?;
            }
            DataType::Struct(_) => {
                for column in array.as_struct().columns() {
                    self.push(out, column)?;
                }
            }
            DataType::Union(..) => self.push_union(out, array.as_union())?,
            DataType::Dictionary(..) => self.push_dictionary(out, array)?,
            DataType::RunEndEncoded(ends, _) => match ends.data_type() {
                DataType::Int16 => self.push_runs::<Int16Type>(out, array)?,
                DataType::Int32 => self.push_runs::<Int32Type>(out, array)?,
                _ => self.push_runs::<Int64Type>(out, array)?,
            },
            // Everything else has one buffer of fixed width.
            data_type => {
                let width = match data_type {
                    DataType::FixedSizeBinary(width) => *width as usize,
                    other => other.primitive_width().unwrap_or_default(),
                };
                let data = array.to_data();
                out.buffers.push(data.buffers()[0].slice_with_length(data.offset() * width, rows * width));
            }
        }
        Ok(())
    }

    fn push_list<O: OffsetSizeTrait>(&mut self, out: &mut Layout, offsets: &[O], values: &ArrayRef) -> Result<()> {
        let (start, end) = push_offsets(out, offsets);
        self.push(out, &values.slice(start, end - start))
    }

    fn push_list_view<O: OffsetSizeTrait>(&mut self, out: &mut Layout, array: &GenericListViewArray<O>) -> Result<()> {
        // Null lists may point anywhere; empty ones need not point inside.
        let mut used: Option<(usize, usize)> = None;
        let is_used = |row: usize, size: &O| size.as_usize() > 0 && !array.is_null(row);
        for (row, (offset, size)) in array.value_offsets().iter().zip(array.value_sizes()).enumerate() {
            if is_used(row, size) {
                let (start, end) = (offset.as_usize(), offset.as_usize() + size.as_usize());
                used = Some(used.map_or((start, end), |(low, high)| (low.min(start), high.max(end))));
            }
        }
        let (low, high) = used.unwrap_or((0, 0));
        let offsets: Vec<O> = (array.value_offsets().iter().zip(array.value_sizes()).enumerate())
            .map(|(row, (offset, size))| if is_used(row, size) { *offset - O::usize_as(low) } else { O::usize_as(0) })
            .collect();
        let sizes: Vec<O> = (array.value_sizes().iter().enumerate())
            .map(|(row, size)| if is_used(row, size) { *size } else { O::usize_as(0) })
            .collect();
        out.buffers.push(Buffer::from_vec(offsets));
        out.buffers.push(Buffer::from_vec(sizes));
        self.push(out, &array.values().slice(low, high - low))
    }

    fn push_union(&mut self, out: &mut Layout, array: &UnionArray) -> Result<()> {
        out.buffers.push(array.type_ids().inner().clone());
        let ids: Vec<i8> = array.fields().iter().map(|(id, _)| id).collect();
        let Some(offsets) = array.offsets() else {
            return ids.into_iter().try_for_each(|id| self.push(out, array.child(id)));
        };
        // Dense: gather each child's used values, so that slices do not drag whole children along.
        let mut rebased = vec![0_i32; array.len()];
        let mut used: Vec<Vec<u32>> = vec![Vec::new(); ids.len()];
        for (row, (type_id, offset)) in array.type_ids().iter().zip(offsets).enumerate() {
            let child = ids.iter().position(|id| id == type_id).unwrap_or_default();
            rebased[row] = used[child].len() as i32;
            used[child].push(*offset as u32);
        }
        out.buffers.push(Buffer::from_vec(rebased));
        for (id, indices) in ids.into_iter().zip(used) {
            self.push(out, &take(array.child(id), &arrow::array::UInt32Array::from(indices), None)?)?;
        }
        Ok(())
    }

    fn push_dictionary(&mut self, out: &mut Layout, array: &dyn Array) -> Result<()> {
        let dictionary = array.as_any_dictionary();
        let (keys, dictionary_values) = match self.keeps_dictionaries {
            true => (dictionary.keys().slice(0, dictionary.len()), Arc::clone(dictionary.values())),
            false => compact_dictionary(dictionary)?,
        };
        let keys = keys.to_data();
        let width = keys.data_type().primitive_width().unwrap_or_default();
        out.buffers.push(keys.buffers()[0].slice_with_length(keys.offset() * width, keys.len() * width));
        let mut values = Layout::default();
        self.push(&mut values, &dictionary_values)?;
        let id = self.next_dictionary;
        self.next_dictionary += 1;
        let head = values.head(&mut self.fbb, dictionary_values.len(), Some(id));
        self.dictionaries.push(EncodedMessage { head, buffers: values.buffers });
        Ok(())
    }

    fn push_runs<R: RunEndIndexType>(&mut self, out: &mut Layout, array: &dyn Array) -> Result<()> {
        let array = RunArray::<R>::from(array.to_data());
        let ends: Vec<R::Native> = match array.is_empty() {
            true => Vec::new(),
            false => array.run_ends().sliced_values().collect(),
        };
        let values = match array.is_empty() {
            true => array.values().slice(0, 0),
            false => array.values_slice(),
        };
        push_validity(out, ends.len(), None);
        out.buffers.push(Buffer::from_vec(ends));
        self.push(out, &values)
    }
}

fn push_validity(out: &mut Layout, rows: usize, nulls: Option<&NullBuffer>) {
    let null_count = nulls.map_or(0, NullBuffer::null_count);
    out.nodes.push(FieldNode::new(rows as i64, null_count as i64));
    out.buffers.push(match nulls {
        Some(nulls) if null_count > 0 => packed(nulls.inner()),
        _ => Buffer::default(),
    });
}

/// The bits, from bit 0 of byte 0, in as few bytes as they need.
fn packed(bits: &BooleanBuffer) -> Buffer {
    let sliced = bits.sliced();
    let bytes = bits.len().div_ceil(8);
    sliced.slice_with_length(0, bytes.min(sliced.len()))
}

/// Pushes offsets that start at 0, and gives the range of values they span.
fn push_offsets<O: OffsetSizeTrait>(out: &mut Layout, offsets: &[O]) -> (usize, usize) {
    let start = offsets.first().copied().unwrap_or_default();
    let end = offsets.last().copied().unwrap_or_default();
    let rebased: Vec<O> = match offsets.is_empty() {
        true => vec![start],
        false => offsets.iter().map(|offset| *offset - start).collect(),
    };
    out.buffers.push(Buffer::from_vec(rebased));
    (start.as_usize(), end.as_usize())
}

fn push_bytes<O: OffsetSizeTrait>(out: &mut Layout, offsets: &[O], values: &Buffer) {
    let (start, end) = push_offsets(out, offsets);
    out.buffers.push(values.slice_with_length(start, end - start));
}

fn push_views(out: &mut Layout, views: &ScalarBuffer<u128>, data: &[Buffer]) {
    out.buffers.push(views.inner().clone());
    out.buffers.extend_from_slice(data);
    out.variadic.push(data.len() as i64);
}

/// More than a tenth of the data buffers is not seen by any view.
fn is_sparse(data: &[Buffer], used_bytes: usize) -> bool {
    let bytes: usize = data.iter().map(Buffer::len).sum();
    bytes > used_bytes + used_bytes / 10
}

/// Keys and values, without values that no key uses. (The validity of the keys was pushed before.)
fn compact_dictionary(dictionary: &dyn AnyDictionaryArray) -> Result<(ArrayRef, ArrayRef)> {
    let values = dictionary.values();
    let keys = dictionary.keys().slice(0, dictionary.len());
    let mut mask = BooleanBufferBuilder::new(values.len());
    mask.append_n(values.len(), false);
    let normalized = if values.is_empty() { Vec::new() } else { dictionary.normalized_keys() };
    for (row, key) in normalized.iter().enumerate() {
        if dictionary.is_valid(row) {
            mask.set_bit(*key, true);
        }
    }
    let mask = mask.finish();
    if mask.count_set_bits() == values.len() {
        return Ok((keys, values.clone()));
    }
    let mut renumbered = vec![0_u64; values.len()];
    mask.set_indices().enumerate().for_each(|(new, old)| renumbered[old] = new as u64);
    let renumbered: UInt64Array = normalized.iter().map(|key| renumbered[*key]).collect::<Vec<_>>().into();
    let values = filter(values, &BooleanArray::new(mask, None))?;
    Ok((cast(&renumbered, keys.data_type())?, values))
}
