//! Writers: messages straight into a mapped file ([`SegmentWriter`]) or into memory ([`ImageWriter`]).

use std::os::fd::OwnedFd;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use onward_wire::SegmentId;
use onward_wire::message::PartitionStats;

use crate::encode::EncodedBatch;
use crate::error::{Result, SegmentError};
use crate::format::{Entry, HEADER_BYTES, header, tail, tail_bytes};
use crate::mapped::IMAGE_ID;
use crate::mapping::Mapping;
use crate::message::{MessageHead, schema_message};

/// Memory that a segment is written into.
pub trait Region {
    /// Makes `bytes` bytes writable from the start; `Err` gives what it has.
    fn reserve(&mut self, bytes: usize) -> std::result::Result<(), usize>;
    /// The bytes reserved so far, or more.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// A mapped, writable file of fixed size.
#[derive(Debug)]
pub struct FileRegion(Mapping);

impl Region for FileRegion {
    fn reserve(&mut self, bytes: usize) -> std::result::Result<(), usize> {
        let capacity = self.0.bytes().len();
        if bytes <= capacity { Ok(()) } else { Err(capacity) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl Region for Vec<u8> {
    fn reserve(&mut self, bytes: usize) -> std::result::Result<(), usize> {
        if self.len() < bytes {
            self.resize(bytes, 0);
        }
        Ok(())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Writes a segment into a file of the store.
pub type SegmentWriter = Writer<FileRegion>;
/// Writes a segment into memory: the inline exchange.
pub type ImageWriter = Writer<Vec<u8>>;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// Bytes of the segment.
    pub length_bytes: u64,
    /// Rows of all partitions.
    pub rows: u64,
    /// Rows and encoded bytes of each partition that has rows, ascending.
    pub partitions: Vec<PartitionStats>,
}

/// A segment in the making. Dropping it leaves a file without footer, which no reader takes for a segment.
#[derive(Debug)]
pub struct Writer<R: Region> {
    id: SegmentId,
    schema: SchemaRef,
    schema_message: Vec<u8>,
    region: R,
    position: usize,
    entries: Vec<Entry>,
    first_partition: u32,
    last_partition: u32,
}

impl SegmentWriter {
    /// Maps `file`, which has `capacity_bytes`, and closes the descriptor.
    pub fn create(id: SegmentId, file: OwnedFd, capacity_bytes: u64, schema: SchemaRef) -> Result<Self> {
        let capacity = usize::try_from(capacity_bytes).unwrap_or(usize::MAX);
        Self::new(id, FileRegion(Mapping::writable(file, capacity)?), schema)
    }

    /// Writes index and footer, unmaps, and gives the length that the host checks at commit.
    pub fn finish(self) -> Result<Finished> {
        self.seal().map(|(finished, _)| finished)
    }
}

impl ImageWriter {
    /// An empty image.
    pub fn create(schema: SchemaRef) -> Result<Self> {
        Self::new(IMAGE_ID, Vec::new(), schema)
    }

    /// Writes index and footer, and gives the image.
    pub fn finish(self) -> Result<(Finished, Bytes)> {
        let (finished, mut region) = self.seal()?;
        region.truncate(finished.length_bytes as usize);
        Ok((finished, region.into()))
    }
}

/// Bytes of a segment with messages of these sizes: what to ask the store for.
pub fn segment_bytes(schema: &SchemaRef, message_bytes: usize, entries: usize, partitions: usize) -> Result<u64> {
    Ok((HEADER_BYTES + message_bytes + tail_bytes(schema_message(schema)?.len(), entries, partitions)) as u64)
}

impl<R: Region> Writer<R> {
    fn new(id: SegmentId, mut region: R, schema: SchemaRef) -> Result<Self> {
        let full = |free| SegmentError::Full { id, needed_bytes: HEADER_BYTES as u64, free_bytes: free as u64 };
        region.reserve(HEADER_BYTES).map_err(full)?;
        region.bytes_mut()[..HEADER_BYTES].copy_from_slice(&header(id));
        Ok(Self {
            id,
            schema_message: schema_message(&schema)?,
            schema,
            region,
            position: HEADER_BYTES,
            entries: Vec::new(),
            first_partition: u32::MAX,
            last_partition: 0,
        })
    }

    /// Schema of its batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends `batch` to `partition`. Errors with `Full`, having written nothing, when it does not fit.
    pub fn append(&mut self, partition: u32, batch: &RecordBatch) -> Result<()> {
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            if !field.data_type().equals_datatype(column.data_type()) {
                return Err(SegmentError::Mismatch {
                    column: field.name().clone(),
                    expected: field.data_type().to_string(),
                    found: column.data_type().to_string(),
                });
            }
        }
        if batch.num_columns() != self.schema.fields().len() {
            return Err(SegmentError::Mismatch {
                column: "count".to_owned(),
                expected: format!("{} columns", self.schema.fields().len()),
                found: format!("{} columns", batch.num_columns()),
            });
        }
        self.append_encoded(partition, &EncodedBatch::new(batch)?)
    }

    /// Appends an encoded batch, whose types are the segment's. Errors as [`Writer::append`].
    pub fn append_encoded(&mut self, partition: u32, batch: &EncodedBatch) -> Result<()> {
        let mut at = self.claim(partition, batch.rows(), batch.messages.len(), batch.encoded_bytes())?;
        let region = self.region.bytes_mut();
        for message in &batch.messages {
            region[at..at + message.head.bytes.len()].copy_from_slice(&message.head.bytes);
            let body = at + message.head.bytes.len();
            for (buffer, place) in message.buffers.iter().zip(&message.head.buffers) {
                region[body + place.start..body + place.end].copy_from_slice(buffer);
            }
            at = body + message.head.body_bytes;
        }
        Ok(())
    }

    /// Writes the head of a message of `partition` and gives the place of its body, to be filled through
    /// [`Writer::bytes_mut`] before `finish`. For writers that scatter rows straight into the mapping. Errors as
    /// [`Writer::append`].
    pub fn reserve(&mut self, partition: u32, head: &MessageHead) -> Result<usize> {
        let at = self.claim(partition, head.rows, 1, head.encoded_bytes())?;
        let body = at + head.bytes.len();
        self.region.bytes_mut()[at..body].copy_from_slice(&head.bytes);
        Ok(body)
    }

    /// The memory of the segment, for bodies given by [`Writer::reserve`].
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.region.bytes_mut()
    }

    /// Adds an entry of `bytes` bytes, if index and footer still fit behind it.
    fn claim(&mut self, partition: u32, rows: usize, messages: usize, bytes: usize) -> Result<usize> {
        let first = self.first_partition.min(partition);
        let last = self.last_partition.max(partition);
        let tail = tail_bytes(self.schema_message.len(), self.entries.len() + 1, (last - first) as usize + 1);
        let end = self.position + bytes;
        self.region.reserve(end + tail).map_err(|capacity| SegmentError::Full {
            id: self.id,
            needed_bytes: (bytes + tail) as u64,
            free_bytes: capacity.saturating_sub(self.position) as u64,
        })?;
        (self.first_partition, self.last_partition) = (first, last);
        let entry = Entry {
            partition,
            messages: messages as u32,
            offset: self.position as u64,
            length: bytes as u64,
            rows: rows as u64,
        };
        self.entries.push(entry);
        Ok(std::mem::replace(&mut self.position, end))
    }

    fn seal(mut self) -> Result<(Finished, R)> {
        let mut finished = Finished::default();
        let tail = tail(self.id, self.position, &self.schema_message, &mut self.entries);
        let end = self.position + tail.len();
        self.region.reserve(end).map_err(|capacity| SegmentError::Full {
            id: self.id,
            needed_bytes: tail.len() as u64,
            free_bytes: capacity.saturating_sub(self.position) as u64,
        })?;
        self.region.bytes_mut()[self.position..end].copy_from_slice(&tail);
        finished.length_bytes = end as u64;
        for entry in &self.entries {
            finished.rows += entry.rows;
            match finished.partitions.last_mut().filter(|last| last.partition == entry.partition) {
                Some(last) => {
                    last.rows += entry.rows;
                    last.bytes += entry.length;
                }
                None => finished.partitions.push(PartitionStats {
                    partition: entry.partition,
                    rows: entry.rows,
                    bytes: entry.length,
                }),
            }
        }
        Ok((finished, self.region))
    }
}
