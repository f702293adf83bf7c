//! IPC messages in a mapping to arrays, without copying.
//!
//! Each buffer becomes an Arrow `Buffer` of its exact length that owns the mapping. One `Buffer` per file would count as
//! the whole file in DataFusion's memory accounting, for every column of every batch.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::datatypes::{DataType, SchemaRef, UnionMode};
use arrow_buffer::Buffer;
use arrow_ipc::{FieldNode, Message, RecordBatch as BatchHead};

use crate::error::{Result, SegmentError};
use crate::format::ALIGNMENT;
use crate::mapped::MappedSegment;
use crate::message::{PREFIX_BYTES, children};

/// Decodes the messages of one entry, which are `range` of `segment`.
pub(crate) fn decode_entry(
    segment: &Arc<MappedSegment>,
    schema: &SchemaRef,
    range: std::ops::Range<usize>,
) -> Result<RecordBatch> {
    let mut dictionaries = Dictionaries::default();
    let mut at = range.start;
    while at < range.end {
        let (message, body) = read_message(segment, at, range.end)?;
        at = body.end;
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            let values = dictionary.data().ok_or_else(|| corrupt(segment, "a dictionary without values"))?;
            if dictionaries.types.is_empty() {
                schema.fields().iter().for_each(|field| dictionaries.collect(field.data_type()));
            }
            let id = dictionary.id();
            let (data_type, nested) = usize::try_from(id)
                .ok()
                .and_then(|id| dictionaries.types.get(id).cloned())
                .ok_or_else(|| corrupt(segment, "a dictionary that the schema does not have"))?;
            let mut decoder = Decoder::new(segment, &dictionaries, values, body);
            decoder.next_dictionary = id - nested;
            let array = decoder.array(&data_type)?;
            dictionaries.values.insert(id, array);
        } else if let Some(batch) = message.header_as_record_batch() {
            let rows = batch.length() as usize;
            let mut decoder = Decoder::new(segment, &dictionaries, batch, body);
            let columns = (schema.fields().iter())
                .map(|field| decoder.array(field.data_type()).map(make_array))
                .collect::<Result<Vec<ArrayRef>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            return Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?);
        } else {
            return Err(corrupt(segment, "a message that is no batch"));
        }
    }
    Err(corrupt(segment, "an entry without a batch"))
}

fn corrupt(segment: &MappedSegment, detail: &str) -> SegmentError {
    SegmentError::Corrupt { id: segment.id(), detail: format!("it has {detail}") }
}

/// The message at `at`, and where its body lies.
fn read_message(segment: &MappedSegment, at: usize, end: usize) -> Result<(Message<'_>, std::ops::Range<usize>)> {
    let bytes = segment.bytes();
    let head = bytes.get(at..end).filter(|head| head.len() >= PREFIX_BYTES);
    let head = head.ok_or_else(|| corrupt(segment, "a message that is cut off"))?;
    let metadata_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let metadata = head.get(PREFIX_BYTES..PREFIX_BYTES + metadata_bytes);
    let metadata = metadata.ok_or_else(|| corrupt(segment, "a message head that is cut off"))?;
    let message = arrow_ipc::root_as_message(metadata)
        .map_err(|error| SegmentError::Corrupt { id: segment.id(), detail: format!("a message head: {error}") })?;
    let start = at + PREFIX_BYTES + metadata_bytes;
    let stop = usize::try_from(message.bodyLength()).ok().and_then(|length| start.checked_add(length));
    let stop = stop.filter(|stop| *stop <= end).ok_or_else(|| corrupt(segment, "a message body that is cut off"))?;
    Ok((message, start..stop))
}

/// Dictionaries of one entry. Ids count depth-first, children before parents, as Arrow assigns them.
#[derive(Default)]
struct Dictionaries {
    /// Type of the values, and how many dictionaries are nested in it.
    types: Vec<(DataType, i64)>,
    values: HashMap<i64, ArrayData>,
}

impl Dictionaries {
    fn collect(&mut self, data_type: &DataType) {
        if let DataType::Dictionary(_, values) = data_type {
            let before = self.types.len();
            self.collect(values);
            let nested = (self.types.len() - before) as i64;
            self.types.push((values.as_ref().clone(), nested));
        } else {
            children(data_type, &mut |child| self.collect(child));
        }
    }
}

fn dictionary_count(data_type: &DataType) -> i64 {
    let mut count = i64::from(matches!(data_type, DataType::Dictionary(..)));
    children(data_type, &mut |child| count += dictionary_count(child));
    count
}

struct Decoder<'a> {
    segment: &'a Arc<MappedSegment>,
    dictionaries: &'a Dictionaries,
    next_dictionary: i64,
    head: BatchHead<'a>,
    body: std::ops::Range<usize>,
    node: usize,
    buffer: usize,
    variadic: usize,
}

impl<'a> Decoder<'a> {
    fn new(
        segment: &'a Arc<MappedSegment>,
        dictionaries: &'a Dictionaries,
        head: BatchHead<'a>,
        body: std::ops::Range<usize>,
    ) -> Self {
        Self { segment, dictionaries, next_dictionary: 0, head, body, node: 0, buffer: 0, variadic: 0 }
    }

    fn next_node(&mut self) -> Result<FieldNode> {
        let nodes = self.head.nodes().filter(|nodes| self.node < nodes.len());
        let node = *nodes.ok_or_else(|| corrupt(self.segment, "fewer arrays than its schema"))?.get(self.node);
        self.node += 1;
        Ok(node)
    }

    /// The next buffer, as an allocation of its own that keeps the mapping alive.
    fn next_buffer(&mut self) -> Result<Buffer> {
        let buffers = self.head.buffers().filter(|buffers| self.buffer < buffers.len());
        let place = *buffers.ok_or_else(|| corrupt(self.segment, "fewer buffers than its schema"))?.get(self.buffer);
        self.buffer += 1;
        let length = place.length() as usize;
        if length == 0 {
            return Ok(Buffer::default());
        }
        let start = self.body.start.checked_add(place.offset() as usize);
        let bytes = start
            .and_then(|start| Some(start..start.checked_add(length)?))
            .filter(|range| range.end <= self.body.end && range.start.is_multiple_of(ALIGNMENT))
            .and_then(|range| self.segment.bytes().get(range))
            .ok_or_else(|| corrupt(self.segment, "a buffer outside its message, or not aligned"))?;
        // SAFETY: `bytes` lies in the segment's memory, which is immutable and lives as long as the owner given here.
        Ok(unsafe { Buffer::from_custom_allocation(NonNull::from(bytes).cast(), length, self.segment.clone()) })
    }

    fn array(&mut self, data_type: &DataType) -> Result<ArrayData> {
        let node = self.next_node()?;
        let rows = node.length() as usize;
        let mut builder = ArrayData::builder(data_type.clone()).len(rows).align_buffers(false);
        let has_validity = !matches!(data_type, DataType::Null | DataType::Union(..) | DataType::RunEndEncoded(..));
        if has_validity {
            let validity = self.next_buffer()?;
            if node.null_count() > 0 {
                builder = builder.null_bit_buffer(Some(validity)).null_count(node.null_count() as usize);
            }
        }
        let fixed_buffers = match data_type {
            DataType::Null | DataType::Struct(_) | DataType::FixedSizeList(..) | DataType::RunEndEncoded(..) => 0,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => 2,
            DataType::ListView(_) | DataType::LargeListView(_) => 2,
            DataType::Union(_, UnionMode::Dense) => 2,
            _ => 1,
        };
        for _ in 0..fixed_buffers {
            builder = builder.add_buffer(self.next_buffer()?);
        }
        match data_type {
            DataType::Utf8View | DataType::BinaryView => {
                let counts = self.head.variadicBufferCounts().filter(|counts| self.variadic < counts.len());
                let counts = counts.ok_or_else(|| corrupt(self.segment, "fewer view arrays than its schema"))?;
                let count = counts.get(self.variadic);
                self.variadic += 1;
                for _ in 0..count {
                    builder = builder.add_buffer(self.next_buffer()?);
                }
            }
            DataType::Dictionary(_, values) => {
                self.next_dictionary += dictionary_count(values);
                let found = self.dictionaries.values.get(&self.next_dictionary).cloned();
                self.next_dictionary += 1;
                builder = builder.add_child_data(found.ok_or_else(|| corrupt(self.segment, "a missing dictionary"))?);
            }
            _ => {
                let mut types = Vec::new();
                children(data_type, &mut |child| types.push(child.clone()));
                for child in &types {
                    builder = builder.add_child_data(self.array(child)?);
                }
            }
        }
        // SAFETY: segments are written by this crate only, and were verified by their host: see `MappedSegment`.
        Ok(unsafe { builder.skip_validation(true) }.build()?)
    }
}
