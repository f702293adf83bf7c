//! The bytes of a segment.
//!
//! ```text
//!   0            header, 64 bytes: magic, version, segment id
//!   64           messages: per entry 0..n dictionary batches, then one record batch; all 64-byte aligned
//!   index        schema message | starts[last - first + 2] | entries, sorted by partition, in write order within one
//!   length - 64  footer: magic, version, segment id, index place, directory, crc32 of index and of itself
//! ```
//!
//! All numbers are little-endian. The segment id is in header and footer, because files are recycled: the footer of a
//! file's previous life is foreign, whatever its checksum says.

use std::ops::Range;

use onward_wire::SegmentId;

use crate::error::{Result, SegmentError};

/// Every message, every buffer and the index start at a multiple of this: a cache line, and what AVX-512 likes.
pub const ALIGNMENT: usize = 64;
/// Bytes before the first message.
pub const HEADER_BYTES: usize = 64;
/// Bytes after the index.
pub const FOOTER_BYTES: usize = 64;
/// Bytes of one index entry.
pub(crate) const ENTRY_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"ONWDSEG\n";
const VERSION: u32 = 1;

/// `bytes` rounded up to [`ALIGNMENT`].
pub const fn align(bytes: usize) -> usize {
    (bytes + ALIGNMENT - 1) & !(ALIGNMENT - 1)
}

/// One batch of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Exchange partition (global number).
    pub partition: u32,
    /// Messages: dictionary batches, then the record batch.
    pub messages: u32,
    /// Where its first message starts.
    pub offset: u64,
    /// Bytes of all its messages.
    pub length: u64,
    /// Rows of the batch.
    pub rows: u64,
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.messages.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            offset: u64_at(bytes, 0),
            length: u64_at(bytes, 8),
            rows: u64_at(bytes, 16),
            partition: u32_at(bytes, 24),
            messages: u32_at(bytes, 28),
        }
    }
}

/// Where the parts of an index lie. The index itself stays in the mapping.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Segment-relative place of the encapsulated schema message.
    pub schema: Range<usize>,
    starts: usize,
    entries: usize,
    first_partition: u32,
    partitions: usize,
    pub entry_count: usize,
    pub rows: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The first bytes of segment `id`.
pub(crate) fn header(id: SegmentId) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&id.0.to_le_bytes());
    out
}

/// Bytes that index and footer need at most: for a check before a message is written.
pub(crate) fn tail_bytes(schema_bytes: usize, entries: usize, partitions: usize) -> usize {
    align(align(schema_bytes) + align((partitions + 1) * 4) + entries * ENTRY_BYTES) + FOOTER_BYTES
}

/// Index and footer of segment `id`, to be written at `offset` (aligned). `entries` are in write order.
pub(crate) fn tail(id: SegmentId, offset: usize, schema: &[u8], entries: &mut [Entry]) -> Vec<u8> {
    // Stable: entries of one partition stay in write order, which `Preserve` outputs rely on.
    entries.sort_by_key(|entry| entry.partition);
    let first = entries.first().map_or(0, |entry| entry.partition);
    let partitions = entries.last().map_or(0, |entry| (entry.partition - first) as usize + 1);
    let mut out = Vec::with_capacity(tail_bytes(schema.len(), entries.len(), partitions));
    out.extend_from_slice(schema);
    out.resize(align(out.len()), 0);
    let mut next = 0;
    for partition in 0..=partitions {
        while next < entries.len() && ((entries[next].partition - first) as usize) < partition {
            next += 1;
        }
        out.extend_from_slice(&(next as u32).to_le_bytes());
    }
    out.resize(align(out.len()), 0);
    for entry in entries.iter() {
        entry.write(&mut out);
    }
    let index_bytes = out.len();
    out.resize(align(index_bytes), 0);
    let rows = entries.iter().fold(0_u64, |rows, entry| rows.saturating_add(entry.rows));
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&MAGIC);
    footer[8..12].copy_from_slice(&VERSION.to_le_bytes());
    footer[12..16].copy_from_slice(&(schema.len() as u32).to_le_bytes());
    footer[16..24].copy_from_slice(&id.0.to_le_bytes());
    footer[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
    footer[32..36].copy_from_slice(&(index_bytes as u32).to_le_bytes());
    footer[36..40].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    footer[40..44].copy_from_slice(&first.to_le_bytes());
    footer[44..48].copy_from_slice(&(partitions as u32).to_le_bytes());
    footer[48..56].copy_from_slice(&rows.to_le_bytes());
    footer[56..60].copy_from_slice(&crc32fast::hash(&out[..index_bytes]).to_le_bytes());
    let sum = crc32fast::hash(&footer[..60]);
    footer[60..].copy_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&footer);
    out
}

impl Index {
    /// Checks that `segment` (exactly its length) is segment `id`, whole, and gives its index. Reads header, footer and
    /// index, never the messages.
    pub fn verify(id: SegmentId, segment: &[u8]) -> Result<Self> {
        let torn = |detail: String| SegmentError::Torn { id, detail };
        let foreign = |detail: String| SegmentError::Foreign { id, detail };
        let corrupt = |detail: String| SegmentError::Corrupt { id, detail };
        if segment.len() < HEADER_BYTES + FOOTER_BYTES || !segment.len().is_multiple_of(ALIGNMENT) {
            return Err(torn(format!("{} bytes cannot be a segment", segment.len())));
        }
        if segment[..8] != MAGIC {
            return Err(foreign("its first bytes are not a segment's".to_owned()));
        }
        if segment[..HEADER_BYTES] != header(id) {
            let (version, found) = (u32_at(segment, 8), SegmentId(u64_at(segment, 16)));
            return Err(foreign(format!("it holds {found} in version {version}")));
        }
        let footer_at = segment.len() - FOOTER_BYTES;
        let footer = &segment[footer_at..];
        if footer[..8] != MAGIC || crc32fast::hash(&footer[..60]) != u32_at(footer, 60) {
            return Err(torn("it has no footer at its end".to_owned()));
        }
        if footer[8..12] != VERSION.to_le_bytes() || u64_at(footer, 16) != id.0 {
            return Err(torn(format!("its footer is that of {}", SegmentId(u64_at(footer, 16)))));
        }
        let offset = usize::try_from(u64_at(footer, 24)).unwrap_or(usize::MAX);
        let (index_bytes, schema_bytes) = (u32_at(footer, 32) as usize, u32_at(footer, 12) as usize);
        let (entry_count, partitions) = (u32_at(footer, 36) as usize, u32_at(footer, 44) as usize);
        let starts = align(schema_bytes);
        let entries = starts + align((partitions + 1) * 4);
        if offset < HEADER_BYTES
            || !offset.is_multiple_of(ALIGNMENT)
            || offset.checked_add(align(index_bytes)) != Some(footer_at)
            || entries + entry_count * ENTRY_BYTES != index_bytes
        {
            return Err(corrupt("its footer contradicts its length".to_owned()));
        }
        let bytes = &segment[offset..offset + index_bytes];
        if crc32fast::hash(bytes) != u32_at(footer, 56) {
            return Err(torn("the checksum of its index does not match".to_owned()));
        }
        let index = Self {
            schema: offset..offset + schema_bytes,
            starts: offset + starts,
            entries: offset + entries,
            first_partition: u32_at(footer, 40),
            partitions,
            entry_count,
            rows: u64_at(footer, 48),
        };
        for at in 0..entry_count {
            let entry = index.entry(segment, at);
            let fits = entry.offset >= HEADER_BYTES as u64
                && entry.offset.is_multiple_of(ALIGNMENT as u64)
                && entry.offset.checked_add(entry.length).is_some_and(|end| end <= offset as u64);
            if !fits {
                return Err(corrupt(format!("entry {at} lies outside its messages")));
            }
        }
        Ok(index)
    }

    /// Positions of the entries of `partition`: two array reads, whatever the number of partitions.
    pub fn range(&self, segment: &[u8], partition: u32) -> Range<usize> {
        match partition.checked_sub(self.first_partition) {
            Some(slot) if (slot as usize) < self.partitions => {
                let at = self.starts + slot as usize * 4;
                let (start, end) = (u32_at(segment, at) as usize, u32_at(segment, at + 4) as usize);
                start.min(self.entry_count)..end.min(self.entry_count)
            }
            _ => 0..0,
        }
    }

    /// The entry at `position`, which is below `entry_count`.
    pub fn entry(&self, segment: &[u8], position: usize) -> Entry {
        let at = self.entries + position * ENTRY_BYTES;
        Entry::read(&segment[at..at + ENTRY_BYTES])
    }
}
