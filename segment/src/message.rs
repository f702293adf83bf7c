//! Arrow IPC message heads: the flatbuffer before a body, and where each buffer lies in the body.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow_ipc::convert::{IpcSchemaEncoder, fb_to_schema};
use arrow_ipc::writer::DictionaryTracker;
use arrow_ipc::{
    DictionaryBatchBuilder, FieldNode, MessageBuilder, MessageHeader, MetadataVersion, RecordBatchBuilder,
};
use flatbuffers::FlatBufferBuilder;
use onward_wire::SegmentId;

use crate::error::{Result, SegmentError};
use crate::format::align;

/// Continuation marker and metadata length, before every message (IPC format since 0.15).
pub(crate) const PREFIX_BYTES: usize = 8;

/// What a record batch message says about its body, in IPC order (pre-order over fields).
#[derive(Clone, Debug, Default)]
pub struct MessageShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Length and null count of each array.
    pub nodes: Vec<FieldNode>,
    /// Bytes of each buffer, unpadded.
    pub buffers: Vec<usize>,
    /// Data buffers of each view array.
    pub variadic: Vec<i64>,
}

/// An encoded message head, and the layout of the body that follows it.
#[derive(Clone, Debug)]
pub struct MessageHead {
    /// Marker, length, flatbuffer, padding: a multiple of 64 bytes.
    pub(crate) bytes: Vec<u8>,
    /// Body-relative place of each buffer.
    pub(crate) buffers: Vec<Range<usize>>,
    /// Padded bytes of the body.
    pub(crate) body_bytes: usize,
    pub(crate) rows: usize,
}

impl MessageHead {
    /// Encodes the head of a record batch.
    pub fn batch(fbb: &mut FlatBufferBuilder<'static>, shape: &MessageShape) -> Self {
        Self::encode(fbb, shape, None)
    }

    /// Encodes the head of a dictionary batch.
    pub(crate) fn dictionary(fbb: &mut FlatBufferBuilder<'static>, shape: &MessageShape, id: i64) -> Self {
        Self::encode(fbb, shape, Some(id))
    }

    fn encode(fbb: &mut FlatBufferBuilder<'static>, shape: &MessageShape, dictionary: Option<i64>) -> Self {
        let mut body_bytes = 0;
        let mut buffers = Vec::with_capacity(shape.buffers.len());
        for length in &shape.buffers {
            buffers.push(body_bytes..body_bytes + length);
            body_bytes += align(*length);
        }
        fbb.reset();
        let places = fbb.create_vector_from_iter(
            buffers.iter().map(|range| arrow_ipc::Buffer::new(range.start as i64, range.len() as i64)),
        );
        let nodes = fbb.create_vector(&shape.nodes);
        let variadic = (!shape.variadic.is_empty()).then(|| fbb.create_vector(&shape.variadic));
        let mut batch = RecordBatchBuilder::new(fbb);
        batch.add_length(shape.rows as i64);
        batch.add_nodes(nodes);
        batch.add_buffers(places);
        if let Some(variadic) = variadic {
            batch.add_variadicBufferCounts(variadic);
        }
        let batch = batch.finish();
        let (kind, header) = match dictionary {
            None => (MessageHeader::RecordBatch, batch.as_union_value()),
            Some(id) => {
                let mut builder = DictionaryBatchBuilder::new(fbb);
                builder.add_id(id);
                builder.add_data(batch);
                (MessageHeader::DictionaryBatch, builder.finish().as_union_value())
            }
        };
        let mut message = MessageBuilder::new(fbb);
        message.add_version(MetadataVersion::V5);
        message.add_header_type(kind);
        message.add_bodyLength(body_bytes as i64);
        message.add_header(header);
        let root = message.finish();
        fbb.finish(root, None);
        Self { bytes: encapsulate(fbb.finished_data()), buffers, body_bytes, rows: shape.rows }
    }

    /// Bytes of head and body in the segment.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len() + self.body_bytes
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Body-relative place of each buffer.
    pub fn buffers(&self) -> &[Range<usize>] {
        &self.buffers
    }
}

/// Prefix, `flatbuffer`, zeros up to the alignment.
fn encapsulate(flatbuffer: &[u8]) -> Vec<u8> {
    let padded = align(PREFIX_BYTES + flatbuffer.len());
    let mut bytes = Vec::with_capacity(padded);
    bytes.extend_from_slice(&[0xff; 4]);
    bytes.extend_from_slice(&((padded - PREFIX_BYTES) as u32).to_le_bytes());
    bytes.extend_from_slice(flatbuffer);
    bytes.resize(padded, 0);
    bytes
}

/// The encapsulated schema message, with dictionary ids counted depth-first, children before parents.
///
/// Errors for a dictionary whose values are dictionaries, which IPC cannot say.
pub(crate) fn schema_message(schema: &Schema) -> Result<Vec<u8>> {
    for field in schema.fields() {
        check_type(field.data_type())?;
    }
    let mut tracker = DictionaryTracker::new(false);
    let mut fbb = FlatBufferBuilder::new();
    let header = IpcSchemaEncoder::new().with_dictionary_tracker(&mut tracker).schema_to_fb_offset(&mut fbb, schema);
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::Schema);
    message.add_bodyLength(0);
    message.add_header(header.as_union_value());
    let root = message.finish();
    fbb.finish(root, None);
    Ok(encapsulate(fbb.finished_data()))
}

fn check_type(data_type: &DataType) -> Result<()> {
    if let DataType::Dictionary(_, values) = data_type
        && matches!(values.as_ref(), DataType::Dictionary(..))
    {
        return Err(SegmentError::Unsupported { data_type: data_type.to_string() });
    }
    let mut result = Ok(());
    children(data_type, &mut |child| {
        if result.is_ok() {
            result = check_type(child);
        }
    });
    result
}

/// Calls `visit` with the types of the child arrays, in IPC order.
pub(crate) fn children(data_type: &DataType, visit: &mut dyn FnMut(&DataType)) {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => visit(field.data_type()),
        DataType::Struct(fields) => fields.iter().for_each(|field| visit(field.data_type())),
        DataType::Union(fields, _) => fields.iter().for_each(|(_, field)| visit(field.data_type())),
        DataType::RunEndEncoded(ends, values) => {
            visit(ends.data_type());
            visit(values.data_type());
        }
        DataType::Dictionary(_, values) => visit(values),
        _ => {}
    }
}

/// Decodes [`schema_message`].
pub(crate) fn read_schema(id: SegmentId, bytes: &[u8]) -> Result<SchemaRef> {
    let corrupt = |detail: String| SegmentError::Corrupt { id, detail };
    let flatbuffer = bytes.get(PREFIX_BYTES..).ok_or_else(|| corrupt("it has no schema".to_owned()))?;
    let message = arrow_ipc::root_as_message(flatbuffer).map_err(|error| corrupt(format!("its schema: {error}")))?;
    let schema = message.header_as_schema().ok_or_else(|| corrupt("its schema is another message".to_owned()))?;
    Ok(Arc::new(fb_to_schema(schema)))
}
